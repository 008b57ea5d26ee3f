"""What is done to pixels before the network sees them, and how its answer gets back to their grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.data.errors import DatasetError
from visionssm.extras import needs_extra

INTENSITIES = ("none", "unit", "minmax", "window", "fixed", "zscore", "nonzero")
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_MOST = 2**28  # numbers of one image or volume


@dataclass(frozen=True)
class Preparation:
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
                if not isinstance(value, (list, tuple)) or len(value) != count:
                    raise DatasetError(f"prepare: {name} must be {count} numbers, got {value!r}")
                object.__setattr__(self, name, tuple(value))
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

    def image(self, pixels: np.ndarray, spacing: Sequence[float]) -> Tensor:
        """(C, *sides) pixels to (C, *new sides) float32.

        Args:
            pixels: of an image, or of a volume with the slices first.
            spacing: of the pixels, in mm, one number a side.
        Raises:
            ValueError: it would become unreasonably large.
        """
        x = torch.from_numpy(np.array(pixels, dtype=np.float32, order="C"))  # a copy: MONAI normalises in place
        x = self._resized(self._intensities(x), spacing)
        return x.contiguous()

    def labels(self, labels: np.ndarray, spacing: Sequence[float]) -> Tensor:
        """(*sides) class numbers to (*new sides) int64, by the nearest."""
        x = torch.from_numpy(np.ascontiguousarray(labels)).long()
        sides = self._sides(x.shape, spacing)
        return F.interpolate(x[None, None].double(), sides, mode="nearest-exact")[0, 0].long() if sides else x

    def restored(self, scores: Tensor, sides: Sequence[int], threshold: float = 0.5) -> Tensor:
        """Class numbers at the pixels' own grid.

        Args:
            scores: (K, *new sides) probabilities; of a single class those of the foreground.
            sides: of the pixels.
            threshold: least probability of the foreground, with a single class.
        Returns:
            (*sides) int64.
        """
        if tuple(scores.shape[1:]) != tuple(sides) and self.order == 3 and self.size is not None:
            return _zoomed(_numbers(scores, threshold)[None].float().cpu(), sides, order=0)[0].long().to(scores.device)
        if tuple(scores.shape[1:]) != tuple(sides):
            mode = _MODES[len(sides)]
            scores = F.interpolate(scores[None].float(), tuple(sides), mode=mode, align_corners=False)[0]
        return _numbers(scores, threshold)

    def _intensities(self, x: Tensor) -> Tensor:
        with needs_extra("medical", "preparing medical images"):
            from monai import transforms
        steps: list[Any] = []
        if self.percentiles is not None:
            steps.append(transforms.ClipIntensityPercentiles(*self.percentiles, channel_wise=True))
        if self.intensity == "window":
            assert self.window is not None
            steps.append(transforms.ScaleIntensityRange(*self.window, 0.0, 1.0, clip=True))
        elif self.window is not None:
            x = x.clamp(*self.window)
        if self.intensity == "unit":
            x = x / 255
        elif self.intensity == "fixed":
            x = (x - self.mean) / self.std
        elif self.intensity == "minmax":
            steps.append(transforms.ScaleIntensity(0.0, 255.0))
        elif self.intensity in ("zscore", "nonzero"):
            steps.append(transforms.NormalizeIntensity(nonzero=self.intensity == "nonzero", channel_wise=True))
        for step in steps:
            x = step(x)
        return torch.as_tensor(x).as_subclass(Tensor).float()

    def _sides(self, sides: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...] | None:
        new = list(self._spaced(sides, spacing))
        if self.size is not None:
            new[-2:] = self.size
        return None if new == list(sides) else tuple(new)

    def _spaced(self, sides: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
        if self.spacing is None or len(sides) != 3:
            return tuple(sides)
        new = tuple(max(1, round(n * old / own)) for n, old, own in zip(sides, spacing, self.spacing, strict=True))
        if np.prod(new, dtype=float) > _MOST:
            raise ValueError(f"{'×'.join(map(str, new))} voxels at a spacing of {self.spacing} mm are too many")
        return new

    def _resized(self, x: Tensor, spacing: Sequence[float]) -> Tensor:
        sides = self._sides(x.shape[1:], spacing)
        if sides is None:
            return x
        if self.order == 3:
            spaced = self._spaced(x.shape[1:], spacing)
            return _zoomed(_zoomed(x, spaced, order=3, grid_mode=True), sides, order=3)
        return F.interpolate(x[None], sides, mode=_MODES[len(sides)], align_corners=False)[0]


def _numbers(scores: Tensor, threshold: float) -> Tensor:
    return (scores[0] >= threshold).long() if len(scores) == 1 else scores.argmax(0)


def _zoomed(x: Tensor, sides: Sequence[int], *, order: int, grid_mode: bool = False) -> Tensor:
    """(C, *sides) by SciPy's splines; slices one by one if only their size changes."""
    if tuple(x.shape[1:]) == tuple(sides):
        return x
    from scipy.ndimage import zoom

    mode = "nearest" if grid_mode else "constant"
    keeps = x.ndim == 4 and x.shape[1] == sides[0]
    parts = x.flatten(0, 1) if keeps else x
    factors = [new / old for new, old in zip(sides[-parts.ndim + 1 :], parts.shape[1:], strict=True)]
    found = [zoom(part.numpy(), factors, order=order, mode=mode, grid_mode=grid_mode) for part in parts]
    return torch.from_numpy(np.stack(found)).view(x.shape[0], *sides)


def preparation_of(prepare: Mapping[str, Any] | None, **given: Any) -> Preparation:
    """From the arguments of a config.

    Raises:
        DatasetError: one is unknown or out of range.
    """
    try:
        return Preparation(**given, **dict(prepare or {}))
    except TypeError as error:
        raise DatasetError(f"prepare: {error}") from error
