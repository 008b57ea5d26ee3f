"""What a Mamba-YOLO of a checkpoint and one of an exported file share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionssm.data.suppression import THRESHOLD
from visionssm.tasks.detection.base import FindsObjects


@dataclass(frozen=True)
class BaseYolo(FindsObjects):
    """A Mamba-YOLO.

    Attributes:
        model: the network.
        classes: class names, from number 0.
        size: side of the square that images are scaled to fit.
        threshold: score that reported objects exceed.
    """

    model: Any
    classes: Sequence[str]
    size: int
    threshold: float = THRESHOLD
