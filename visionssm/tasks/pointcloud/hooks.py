"""What happens around epochs: random changes of training samples end, and precision is drawn over recall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from visionssm.engine.errors import ConfigError
from visionssm.engine.hooks.figures import write_figure
from visionssm.tasks.pointcloud.curves import draw_precision_recall


class ChangesEndHook(Hook):
    """Trains the last epochs on scenes as they are.

    Args:
        pasting: epochs at the end without pasted objects.
        changes: epochs at the end without any random change.
    Raises:
        ConfigError: a number is negative; before training, if it is no training in epochs, or its workers outlive them.
    """

    def __init__(self, pasting: int = 0, changes: int = 0) -> None:
        if not all(isinstance(x, int) and x >= 0 for x in (pasting, changes)):
            raise ConfigError(f"ChangesEndHook: pasting={pasting!r} and changes={changes!r} must be counts of epochs")
        self.pasting, self.changes = pasting, changes

    def before_train(self, runner: Any) -> None:
        """Look whether samples can be told."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ConfigError("ChangesEndHook counts epochs: use it with train_cfg=dict(by_epoch=True, …)")
        if runner.train_dataloader.persistent_workers:
            raise ConfigError(
                "ChangesEndHook cannot reach workers that outlive an epoch: train_dataloader.persistent_workers=False"
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Tell the data set what it does in this epoch."""
        left = runner.max_epochs - runner.epoch
        runner.train_dataloader.dataset.train_with(changes=left > self.changes, pasting=left > self.pasting)


class PrecisionRecallHook(Hook):
    """After a validation, draw the curves of `KittiMetric` into the work folder: precision_recall.png."""

    priority = "LOWEST"

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Draw the curves of this evaluation."""
        for metric in runner.val_loop.evaluator.metrics:
            if getattr(metric, "scores", None) and is_main_process():
                figure = draw_precision_recall(metric.scores, metric.headline_level)
                write_figure(figure, Path(runner.work_dir) / "precision_recall.png")
