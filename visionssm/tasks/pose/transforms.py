"""Random changes of the region that a crop shows (HRNet, Sun et al. 2019, arXiv 1902.09212, section 4.1).

They draw from PyTorch's global generator, so samples are as reproducible as that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from visionssm.data.errors import DatasetError
from visionssm.data.keypoints import Skeleton
from visionssm.heads.pose import affine

_LEAST_POINTS, _LEAST_UPPER, _LEAST_LOWER = 9, 2, 3
_UPPER_PREFERRED, _HALF_PADDING = 0.7, 1.5


@dataclass(frozen=True)
class Region:
    """What of an image a crop shows.

    Attributes:
        centre, scale: (2,) each, see `visionssm.heads.pose.affine`; of the mirror image where it is mirrored.
        rotation: in degrees.
        mirrored: the image is mirrored before.
    """

    centre: np.ndarray
    scale: np.ndarray
    rotation: float = 0.0
    mirrored: bool = False

    def matrix(self, size: tuple[int, int], width: int) -> np.ndarray:
        """(2, 3) map from an image of this width to a crop of a size (height, width)."""
        found = affine.matrix(self.centre, self.scale, self.rotation, size)
        if self.mirrored:
            found = np.column_stack([-found[:, 0], found[:, 1], found[:, 2] + (width - 1) * found[:, 0]])
        return found


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random, in this order; defaults are those of the published recipes.

    Attributes:
        flip: probability of mirroring.
        half_body: probability of showing the upper or the lower half alone, of people with nine points or more.
        shift: largest shift, in sizes of the region; with probability `shift_chance`.
        scale: largest change of the size: 0.5 is from half to one and a half; always.
        rotation: largest turn in degrees; with probability `rotation_chance`.
    """

    flip: float = 0.5
    half_body: float = 0.3
    shift: float = 0.16
    shift_chance: float = 0.3
    scale: float = 0.5
    rotation: float = 80.0
    rotation_chance: float = 0.6

    def __post_init__(self) -> None:
        for name in ("flip", "half_body", "shift_chance", "rotation_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise DatasetError(f"augment: {name} is a probability, from 0 to 1, got {getattr(self, name)}")
        for name, most in (("shift", 1.0), ("scale", 0.99), ("rotation", 180.0)):
            if not 0 <= getattr(self, name) <= most:
                raise DatasetError(f"augment: {name} must be from 0 to {most:g}, got {getattr(self, name)}")

    def __call__(
        self, region: Region, points: np.ndarray, width: int, skeleton: Skeleton, size: tuple[int, int]
    ) -> tuple[Region, np.ndarray]:
        """A changed region, and the points in the image, or in its mirror image.

        Args:
            region: around the person's box.
            points: (K, 3) x, y and visibility.
            width: of the image.
            skeleton: of the points.
            size: height and width of the crop.
        """
        if _chance(self.flip):
            region, points = mirrored(region, points, width, skeleton)
        if _chance(self.half_body):
            region = _half(region, points, skeleton, size)
        shift = self.shift * _draws(2) * _chance(self.shift_chance)
        scale = 1 + self.scale * float(_draws(1)[0])
        rotation = self.rotation * float(_draws(1)[0]) * _chance(self.rotation_chance)
        changed = replace(
            region, centre=region.centre + shift * region.scale, scale=scale * region.scale, rotation=rotation
        )
        return changed, points


def mirrored(region: Region, points: np.ndarray, width: int, skeleton: Skeleton) -> tuple[Region, np.ndarray]:
    """A region and points in the mirror image of an image of this width: left and right points swap."""
    centre = np.array([width - 1 - region.centre[0], region.centre[1]])
    order = list(range(len(points)))
    for left, right in skeleton.flip_pairs:
        order[left], order[right] = right, left
    moved = points[order]
    moved[:, 0] = width - 1 - moved[:, 0]
    return replace(region, centre=centre, mirrored=not region.mirrored), moved


def _half(region: Region, points: np.ndarray, skeleton: Skeleton, size: tuple[int, int]) -> Region:
    """The region around the points of the upper or the lower half, where there are enough of them."""
    seen = points[:, 2] > 0
    if seen.sum() < _LEAST_POINTS:
        return region
    lower = np.isin(np.arange(len(points)), skeleton.lower)
    upper_half, lower_half = points[seen & ~lower, :2], points[seen & lower, :2]
    enough = len(upper_half) >= _LEAST_UPPER, len(lower_half) >= _LEAST_LOWER
    if not any(enough):
        return region
    chosen = upper_half if _chance(_UPPER_PREFERRED) else lower_half
    if not all(enough):
        chosen = upper_half if enough[0] else lower_half
    low, high = chosen.min(0), chosen.max(0)
    if (high - low).max() < 1:
        return region
    box = np.concatenate([low, np.maximum(high, low + 1)])
    _, scale = affine.box_to_centre_scale(box, size, _HALF_PADDING)
    return replace(region, centre=chosen.mean(0), scale=scale)


def _chance(probability: float) -> bool:
    return float(torch.rand(())) < probability


_TAIL = 0.5 * math.erfc(1 / math.sqrt(2))  # of a normal distribution beyond 1


def _draws(count: int) -> np.ndarray:
    """Standard normal numbers, of which only those from −1 to 1 are drawn."""
    share = _TAIL + (1 - 2 * _TAIL) * torch.rand(count, dtype=torch.float64)
    return torch.special.ndtri(share).numpy()


def checked_augmentation(given: object) -> Augmentation | None:
    """What a config's `augment` asks for; None for nothing.

    Raises:
        DatasetError: it is no mapping, or has an unknown field or a value out of range.
    """
    if given is None:
        return None
    try:
        return Augmentation(**dict(given))  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"augment: {error}; the fields are {', '.join(Augmentation.__dataclass_fields__)}"
        ) from error
