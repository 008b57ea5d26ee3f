"""Training of a classifier that is also taught by its own moving average (MESA, Du et al. 2022, arXiv 2205.14083)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from torch import Tensor
from torch.nn.functional import cross_entropy

from visionssm.engine.errors import ConfigError
from visionssm.engine.optim import bare_model
from visionssm.tasks.classification.losses import mesa
from visionssm.tasks.classification.model import ImageClassifier


class MesaClassifier(ImageClassifier):
    """An `ImageClassifier` whose loss has one term more: weight · `visionssm.tasks.classification.losses.mesa`.

    The moving average sees the same mixed images. It comes from `MesaHook`, which the config must have beside its
    `EMAHook`.

    Args:
        weight: of the term; published are 1.0, 1.5 and 2.0 for models of 25, 40 and 90 million parameters.
        begin: number of the epoch, counted from 0, before which the term is left out; published is a quarter of them.
        arguments: `ImageClassifier`'s.
    Raises:
        ConfigError: the weight is negative.
    """

    def __init__(self, *arguments: Any, weight: float = 1.0, begin: int = 75, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if weight < 0:
            raise ConfigError(f"model.weight={weight}, of the moving average's term, must not be negative")
        self.weight, self.begin = weight, begin
        self._average: Callable[[Tensor], Tensor] | None = None
        self._has_hook = False

    def follow(self, average: Callable[[Tensor], Tensor] | None) -> None:
        """From now on learn from this function of images to logits; None for the labels alone."""
        # A bound method, not a module: optimizers, checkpoints and the moving average itself must not see it.
        self._average, self._has_hook = average, True

    def criterion(self, inputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Loss of images whose targets are (B,) class numbers or, after mixing, (B, classes) distributions."""
        if self.training and not self._has_hook:
            raise ConfigError(
                "model.type='MesaClassifier' needs its moving average: add dict(type='MesaHook') to custom_hooks"
            )
        logits = self.model(inputs)
        loss = cross_entropy(logits, targets, label_smoothing=label_smoothing)
        if self._average is None or not self.training:
            return loss
        return loss + self.weight * mesa(logits, self._average(inputs))


class MesaHook(Hook):
    """Give a `MesaClassifier` the predictions of its moving average, which the run's `EMAHook` keeps.

    The average predicts in evaluation mode: without dropped paths, and with the averaged statistics of batch norms.
    Whether it is used depends on the number of the epoch alone, so a resumed run behaves like an uninterrupted one.
    """

    def before_train(self, runner: Any) -> None:
        """Find the two.

        Raises:
            ConfigError: there is no `EMAHook`, or the model is no `MesaClassifier`.
        """
        model = bare_model(runner.model)
        if not isinstance(model, MesaClassifier):
            raise ConfigError(f"MesaHook is for model.type='MesaClassifier', not {type(model).__name__!r}")
        kept = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        if not kept:
            raise ConfigError("MesaHook needs the moving average that an EMAHook keeps; add one to custom_hooks")
        self.classifier = model
        self.average: torch.nn.Module = kept[0].ema_model.module.eval()

    def before_train_epoch(self, runner: Any) -> None:
        """Switch the term on when its epoch has come."""
        self.classifier.follow(self._predict if runner.epoch >= self.classifier.begin else None)

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:
        return self.average(images)
