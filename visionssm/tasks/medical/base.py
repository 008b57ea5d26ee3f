"""What networks for medical segmentation of checkpoints and of exported files share; without PyTorch and MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionssm.tasks.medical.results import Segmented, readable_scan
from visionssm.tasks.medical.scan import Scan
from visionssm.tasks.medical.settings import Inference, PreparationSettings


@dataclass(frozen=True)
class BaseMedicalSegmenter:
    """A network for medical segmentation.

    Attributes:
        model: (B, C, *sides) to logits.
        classes: class names, the background first.
        preparation: of images.
        inference: how the network is applied.
        threshold: least probability of the foreground, of networks with a single class; None for the training's.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "pixels", "mm3")
    has_masks: ClassVar[bool] = True

    model: Any
    classes: Sequence[str]
    preparation: PreparationSettings
    inference: Inference
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}")
        if self.threshold is not None and not self.of_one_class:
            raise ValueError("threshold does not apply here: with several classes the most probable one is taken")

    @property
    def spatial_dims(self) -> int:
        """2 for a network of images, 3 for one of volumes."""
        raise NotImplementedError

    @property
    def of_one_class(self) -> bool:
        """Whether the network tells the probability of the foreground alone."""
        raise NotImplementedError

    def read(self, path: Path) -> Scan:
        """A NIfTI volume or an image; see `readable_scan`."""
        return readable_scan(path, self.preparation, self.spatial_dims)

    def __call__(self, scans: Sequence[Scan]) -> list[Segmented]:
        """Classes of every scan, at its own grid."""
        threshold = self.inference.threshold if self.threshold is None else self.threshold
        return [  # one by one, as their sizes differ
            Segmented(self.classes, self.numbers(scan, threshold), scan.spacing, scan.grid is not None)
            for scan in scans
        ]

    def numbers(self, scan: Scan, threshold: float) -> np.ndarray:
        """(*sides) class numbers at the grid of a scan; `threshold` is that of networks with a single class."""
        raise NotImplementedError
