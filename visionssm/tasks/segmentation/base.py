"""What segmentation models of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from visionssm.engine.predictors import ReadsImages


class TellsPixels(ReadsImages):
    """A predictor whose results are the `PixelClasses` of every image."""

    columns: ClassVar[tuple[str, ...]] = ("class", "share")
    has_masks: ClassVar[bool] = True


@dataclass(frozen=True)
class BaseSegmenter(TellsPixels):
    """A segmentation model.

    Attributes:
        model: (1, 3, H, W) image in [0, 1] to (1, classes, H, W) scores.
        classes: class names.
    """

    model: Any
    classes: Sequence[str]
