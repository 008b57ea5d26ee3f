"""Classifiers trained class by class with the binary cross-entropy, as DeiT III does (arXiv 2204.07118)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.model import ImageClassifier


class BinaryCrossEntropyClassifier(ImageClassifier):
    """An `ImageClassifier` that says of every class whether it is there; of mixed images both classes are.

    The loss is the mean over images and classes.

    Args:
        arguments: `ImageClassifier`'s.
    Raises:
        ConfigError: labels are smoothed, which would make every class present.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.label_smoothing:
            raise ConfigError(f"model.label_smoothing={self.label_smoothing} does not go with this loss; set it to 0.0")

    def criterion(self, inputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Loss of images whose targets are (B,) class numbers or, after mixing, (B, classes) distributions."""
        scores = self.model(inputs)
        shares = one_hot(targets, self.num_classes) if targets.ndim == 1 else targets
        return binary_cross_entropy_with_logits(scores, (shares > 0).to(scores.dtype))
