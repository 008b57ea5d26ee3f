"""What is done to pixels before the network sees them, and how its answer gets back to their grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.engine.finite import check_finite
from visionssm.extras import needs_extra
from visionssm.tasks.medical.settings import INTENSITIES, PreparationSettings

__all__ = ["INTENSITIES", "Preparation", "preparation_of"]

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Preparation(PreparationSettings):
    __doc__ = PreparationSettings.__doc__

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
        sides = self.new_sides(x.shape, spacing)
        return F.interpolate(x[None, None].double(), sides, mode="nearest-exact")[0, 0].long() if sides else x

    def restored(self, scores: Tensor, sides: Sequence[int], threshold: float = 0.5) -> Tensor:
        """Class numbers at the pixels' own grid.

        Args:
            scores: (K, *new sides) probabilities; of a single class those of the foreground.
            sides: of the pixels.
            threshold: least probability of the foreground, with a single class.
        Returns:
            (*sides) int64.
        Raises:
            ValueError: a score is NaN or infinite.
        """
        check_finite(bool(scores.isfinite().all()))
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

    def _resized(self, x: Tensor, spacing: Sequence[float]) -> Tensor:
        sides = self.new_sides(x.shape[1:], spacing)
        if sides is None:
            return x
        if self.order == 3:
            spaced = self.spaced(x.shape[1:], spacing)
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
    """From the arguments of a config, and what the data set itself says.

    Raises:
        DatasetError: one is unknown, said twice or out of range.
    """
    said: Any = {} if prepare is None else prepare
    for name in given.keys() & said if isinstance(said, Mapping) else ():
        raise DatasetError(f"prepare has {name}={said[name]!r}, which the data set itself says ({given[name]!r})")
    return checked(Preparation, "prepare", {**said, **given} if isinstance(said, Mapping) else said)
