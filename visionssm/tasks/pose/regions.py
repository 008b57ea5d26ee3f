"""Regions of people in images, and their key points back in the images' pixels; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.errors import DatasetError
from visionssm.heads.pose import affine, codec
from visionssm.heads.pose.codec import MULTIPLE

MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
"""Of ImageNet's images, 0 to 255, by which all published networks' crops are normalised."""

_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Crop:
    """How people are cut out.

    Attributes:
        size: height and width, multiples of 32.
        padding: by how much a box is enlarged before.
    """

    size: tuple[int, int] = (256, 192)
    padding: float = affine.PADDING

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, (list, tuple)) else ()
        if len(sides) != 2 or not all(type(x) is int and 0 < x <= _LARGEST_SIDE and x % MULTIPLE == 0 for x in sides):
            raise DatasetError(
                f"size must be height and width of the crops, multiples of {MULTIPLE} up to {_LARGEST_SIDE}, got "
                f"{self.size!r:.60}"
            )
        if not isinstance(self.padding, (int, float)) or not 0.1 <= self.padding <= 10:
            raise DatasetError(f"padding must be from 0.1 to 10, got {self.padding!r:.60}")
        object.__setattr__(self, "size", tuple(sides))

    def plain(self) -> dict[str, Any]:
        """As lists and numbers, for checkpoints."""
        return {**asdict(self), "size": list(self.size)}

    def region(self, box: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale of the region that is shown of a box (left, top, right, bottom)."""
        return affine.box_to_centre_scale(box, self.size, self.padding)


def cut_array(image: Image.Image, centre: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) float32: a region of an RGB image, normalised."""
    return normalised(affine.warp(np.asarray(image), affine.matrix(centre, scale, 0.0, size), size))


def normalised(crop: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32 as networks take it."""
    return np.ascontiguousarray(((crop.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1))


def placed(maps: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Key points in pixels of the images.

    Args:
        maps: (n, K, H/4, W/4) heat maps.
        centres, scales: (n, 2) of the regions.
        size: of the crops.
    Returns:
        (n, K, 3): x, y and score, which is the height of the map's peak.
    """
    points, scores = codec.decode(maps)
    back = [affine.inverse(affine.matrix(*region, 0.0, size)) for region in zip(centres, scales, strict=True)]
    moved = [affine.transform(x, to_image) for x, to_image in zip(points, back, strict=True)]
    return np.concatenate([np.reshape(moved, points.shape), scores[..., None]], -1)
