"""What classifiers of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visionssm.data.images import Mode, read_image
from visionssm.tasks.classification.results import ClassResult


class RanksClasses:
    """A predictor whose results are the most probable classes, of an image or of anything else.

    Attributes:
        classes: class names in the order of the scores.
        top_k: classes that a result holds.
    """

    columns: ClassVar[tuple[str, ...]] = ("rank", "class", "score")

    classes: Sequence[str]
    top_k: int

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    def ranked(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        """Names and probabilities of the best classes, best first.

        Args:
            probabilities: (classes,) of all of them.
        Raises:
            ValueError: there are not as many as names.
        """
        if probabilities.shape != (len(self.classes),):
            raise ValueError(f"the model gives {probabilities.shape} scores for {len(self.classes)} class names")
        best = np.argsort(-probabilities, kind="stable")[: self.top_k]
        return [(self.classes[i], float(probabilities[i])) for i in best]


@dataclass(frozen=True)
class BaseClassifier(RanksClasses):
    """A model with all that is needed to apply it to an image.

    Attributes:
        model: (B, C, H, W) to (B, classes) scores before softmax.
        classes: class names in the order of the scores.
        transform: PIL image to (C, H, W).
        image_mode: "RGB", or "L" for models of one channel.
        top_k: classes that a result holds.
    """

    model: Any
    classes: Sequence[str]
    transform: Callable[[Image.Image], Any]
    image_mode: Mode
    top_k: int = 5

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, self.image_mode)

    def __call__(self, images: Sequence[Image.Image]) -> list[ClassResult]:
        """The best classes of every image.

        Raises:
            ValueError: class names and scores differ in number.
        """
        return [ClassResult(self.ranked(probabilities)) for probabilities in self.probabilities(images)]

    def probabilities(self, images: Sequence[Image.Image]) -> Sequence[np.ndarray]:
        """(classes,) float32 of every image."""
        raise NotImplementedError
