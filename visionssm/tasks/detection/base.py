"""What detectors of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from visionssm.engine.predictors import ReadsImages


class FindsObjects(ReadsImages):
    """A predictor whose results are a `Detection` per image."""

    columns: ClassVar[tuple[str, ...]] = ("class", "score", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class BaseDetector(FindsObjects):
    """A detector.

    Attributes:
        model: (3, H, W) images in [0, 1] of any sizes to torchvision's detections.
        classes: class names; the first has the number 1 in the model.
        threshold: least score of an object that is reported.
    """

    model: Any
    classes: Sequence[str]
    threshold: float = 0.5
