"""Classes of pixels and voxels; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import UnreadableFileError
from visionssm.drawing import save_picture
from visionssm.engine.task import Row, Source
from visionssm.tasks.medical.pictures import draw
from visionssm.tasks.medical.scan import Scan, read_scan, write_labels
from visionssm.tasks.medical.settings import PreparationSettings


@dataclass(frozen=True)
class Segmented:
    """Class of every pixel of an image or voxel of a volume.

    Attributes:
        classes: all class names of the model, the background first.
        numbers: (*sides) class numbers, of the scan's sides.
        spacing: of these in mm.
        is_volume: whether sizes are volumes.
    """

    classes: Sequence[str]
    numbers: np.ndarray
    spacing: Sequence[float]
    is_volume: bool

    def rows(self) -> list[Row]:
        """Class, pixels or voxels, and of a volume how many mm³ they are, of every class but the background."""
        unit = float(np.prod(self.spacing))
        return [(name, count, count * unit if self.is_volume else "") for name, count in self._counts() if count]

    def plain(self) -> dict[str, Any]:
        """{"classes": [{"class": …, "voxels": …, "mm3": …}]}; of images "pixels" and no size."""
        unit = float(np.prod(self.spacing))
        if not self.is_volume:
            return {"classes": [{"class": name, "pixels": count} for name, count in self._counts()]}
        return {"classes": [{"class": name, "voxels": count, "mm3": count * unit} for name, count in self._counts()]}

    def save(self, folder: Path, source: Source) -> None:
        """Write the image with its classes in colours; of a volume the slices with most foreground."""
        drawn = draw(source.sample.pixels, {"predicted": self.numbers}, self.classes)
        save_picture(drawn, folder / f"{source.name}.png")

    def save_masks(self, folder: Path, source: Source) -> None:
        """Write a PNG label image, or a NIfTI file with the affine and header of the scan."""
        write_labels(self.numbers, source.sample, folder / source.name.removesuffix(".nii"))

    def _counts(self) -> list[tuple[str, int]]:
        counts = np.bincount(self.numbers.ravel(), minlength=len(self.classes))
        return [(name, int(counts[number])) for number, name in enumerate(self.classes) if number > 0]


def readable_scan(path: Path, preparation: PreparationSettings, dims: int) -> Scan:
    """A NIfTI volume or an image that a network can be applied to; see `read_scan`.

    Args:
        path: of the file.
        preparation: of the network's images.
        dims: spatial dimensions of the network.
    Raises:
        UnreadableFileError: it cannot be read, is an image where a volume is needed, or of another range of values.
    """
    scan = read_scan(path, preparation.channels)
    if dims == 3 and scan.pixels.ndim == 3:
        raise UnreadableFileError(path, "it is an image; the model is of volumes (.nii, .nii.gz)")
    if preparation.intensity == "fixed":
        low, high = float(scan.pixels.min()), float(scan.pixels.max())
        if 0 < high - low < _LEAST_RANGE * preparation.std:
            raise UnreadableFileError(
                path,
                f"its values go from {low:.4g} to {high:.4g}, but those of the training have a mean of "
                f"{preparation.mean:g} and a standard deviation of {preparation.std:g}; scale it to them",
            )
    return scan


_LEAST_RANGE = 0.1  # of the training's standard deviations; below, all that a network sees is one grey
