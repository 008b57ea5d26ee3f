"""The end of Mosaic."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionssm.engine.errors import ConfigError


@HOOKS.register_module()
class CloseMosaicHook(Hook):
    """Train the last epochs without Mosaic, on images as they will be seen.

    Args:
        epochs: how many.
    """

    def __init__(self, epochs: int = 10) -> None:
        if epochs < 0:
            raise ConfigError(f"CloseMosaicHook: epochs={epochs} must be 0 or more")
        self.epochs = epochs

    def before_train(self, runner: Any) -> None:
        """Look whether the data know Mosaic.

        Raises:
            ConfigError: they do not.
        """
        if not hasattr(runner.train_dataloader.dataset, "use_mosaic"):
            raise ConfigError("CloseMosaicHook: the training data have no Mosaic; use type='MosaicDetection'")

    def before_train_epoch(self, runner: Any) -> None:
        """Switch Mosaic on or off, whatever epoch a resumed run begins with."""
        wanted = runner.epoch < runner.max_epochs - self.epochs
        runner.train_dataloader.dataset.use_mosaic(wanted)
        if is_main_process() and runner.epoch == runner.max_epochs - self.epochs:
            runner.logger.info(f"from here on without Mosaic: the last {self.epochs} epochs")
