"""How medical images are prepared and networks applied to them, as configs, checkpoints and exported files say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visionssm.data.arguments import are_numbers, is_number
from visionssm.data.errors import DatasetError

INTENSITIES = ("none", "unit", "minmax", "window", "fixed", "zscore", "nonzero")
_MOST = 2**28  # numbers of one image or volume


@dataclass(frozen=True)
class PreparationSettings:
    """Intensities and sizes as the network is used to them. It is kept in checkpoints.

    Args:
        channels: of an image.
        intensity: "none"; "unit" for 8 bits to [0, 1]; "minmax" for every image to 0 … 255 by its own extremes (a
            constant one to 0); "window" for `window` to [0, 1]; "fixed" for `window` if given, then minus `mean`, over
            `std`; "zscore" for every channel minus its mean, over its standard deviation; "nonzero" for the same over
            what is not 0, which stays 0.
        percentiles: two, beyond which every channel's values are cut off first; None for none.
        window: two values beyond which intensities are cut off.
        mean: for "fixed".
        std: for "fixed".
        spacing: of the grid that a volume is resampled to, in mm: depth, height, width; None for its own.
        size: height and width that images, or the slices of a volume, are then resized to; None for their own.
        order: 1 for linear resampling; 3 for cubic splines, with which `size` means SciPy's `zoom` and labels come back
            by order 0, as for the published numbers on Synapse.

    Raises:
        DatasetError: an argument is out of range.
    """

    channels: int = 1
    intensity: str = "zscore"
    percentiles: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    mean: float = 0.0
    std: float = 1.0
    spacing: tuple[float, float, float] | None = None
    size: tuple[int, int] | None = None
    order: int = 1

    def __post_init__(self) -> None:
        for name, count in (("percentiles", 2), ("window", 2), ("spacing", 3), ("size", 2)):
            value = getattr(self, name)
            if value is not None:
                if not are_numbers(value, count, whole=name == "size"):
                    remedy = "; give whole pixels, as (256, 256)" if name == "size" else ""
                    raise DatasetError(f"prepare: {name} must be {count} numbers, got {value!r}{remedy}")
                object.__setattr__(self, name, tuple(value))
        for name in ("channels", "mean", "std", "order"):
            value, whole = getattr(self, name), name in ("channels", "order")
            if not is_number(value, whole=whole):
                raise DatasetError(f"prepare: {name} must be a {'whole ' if whole else ''}number, got {value!r}")
        checks = {
            f"channels must be at least 1, got {self.channels}": self.channels >= 1,
            f"intensity={self.intensity!r} is unknown; choose one of {', '.join(INTENSITIES)}": self.intensity
            in INTENSITIES,
            "intensity='window' needs window=(low, high)": self.intensity != "window" or self.window is not None,
            f"window={self.window} must rise": self.window is None or self.window[0] < self.window[1],
            f"percentiles={self.percentiles} must rise within 0 to 100": self.percentiles is None
            or 0 <= self.percentiles[0] < self.percentiles[1] <= 100,
            f"std must be positive, got {self.std}": self.std > 0,
            f"spacing={self.spacing} must be positive": self.spacing is None or min(self.spacing) > 0,
            f"size={self.size} must be 1 to 4096": self.size is None or 1 <= min(self.size) <= max(self.size) <= 4096,
            f"order must be 1 or 3, got {self.order}": self.order in (1, 3),
        }
        for message, holds in checks.items():
            if not holds:
                raise DatasetError(f"prepare: {message}")

    def plain(self) -> dict[str, Any]:
        """Its arguments in plain types."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}

    def new_sides(self, sides: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...] | None:
        """Sides that an image or a volume is resized to; None for its own."""
        new = list(self.spaced(sides, spacing))
        if self.size is not None:
            new[-2:] = self.size
        return None if new == list(sides) else tuple(new)

    def spaced(self, sides: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
        """Sides of a volume at the spacing that is asked for, its own for an image.

        Raises:
            ValueError: they are unreasonably large.
        """
        if self.spacing is None or len(sides) != 3:
            return tuple(sides)
        new = tuple(max(1, round(n * old / own)) for n, old, own in zip(sides, spacing, self.spacing, strict=True))
        if np.prod(new, dtype=float) > _MOST:
            raise ValueError(f"{'×'.join(map(str, new))} voxels at a spacing of {self.spacing} mm are too many")
        return new


@dataclass(frozen=True)
class Inference:
    """How a network is applied.

    Args:
        patch: sides of the window, as many as the network has spatial dimensions; None for the whole image at once.
        overlap: of neighbouring windows, as a part of their sides.
        mirror: axes of the network's input, counted from 0, along which it is mirrored too; probabilities are averaged.
        batch: windows or slices at once.
        threshold: least probability of the foreground, of networks with a single class.

    Raises:
        ValueError: an argument is out of range.
    """

    patch: tuple[int, ...] | None = None
    overlap: float = 0.5
    mirror: tuple[int, ...] = ()
    batch: int = 8
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("patch", "mirror"):
            value = getattr(self, name)
            if not (name == "patch" and value is None):
                if not are_numbers(value, whole=True):
                    raise ValueError(f"inference: {name} must be a list of whole numbers, got {value!r}")
                object.__setattr__(self, name, tuple(value))
        for name in ("overlap", "batch", "threshold"):
            value, whole = getattr(self, name), name == "batch"
            if not is_number(value, whole=whole):
                raise ValueError(f"inference: {name} must be a {'whole ' if whole else ''}number, got {value!r}")
        if self.patch is not None and (not self.patch or min(self.patch) < 1):
            raise ValueError(f"patch={self.patch} must be sides of at least 1")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be from 0 to below 1, got {self.overlap}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def check(self, dims: int) -> None:
        """Look whether it fits a network of so many spatial dimensions.

        Raises:
            ValueError: it does not.
        """
        if self.patch is not None and len(self.patch) != dims:
            raise ValueError(f"patch={self.patch} has {len(self.patch)} sides, the network has {dims}")
        if any(not 0 <= axis < dims for axis in self.mirror):
            raise ValueError(f"mirror={self.mirror} must be axes from 0 to {dims - 1}")
