"""Crops of people as networks take them, and what networks find in them, the same in evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.data.errors import DatasetError
from visionssm.heads.pose import affine, codec
from visionssm.heads.pose.heatmap import MULTIPLE, PoseNetwork

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


def cut(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(3, H, W) float32: an RGB image sent through a (2, 3) matrix, normalised."""
    crop = affine.warp(np.asarray(image), matrix, size).astype(np.float32)
    return torch.from_numpy((crop - MEAN) / STD).permute(2, 0, 1).contiguous()


def shown(crop: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 pixels of a crop."""
    pixels = crop.detach().cpu().float().permute(1, 2, 0).numpy() * STD + MEAN
    return pixels.round().clip(0, 255).astype(np.uint8)


def heat_maps(model: PoseNetwork, crops: Tensor, flip_pairs: Sequence[tuple[int, int]] | None) -> Tensor:
    """(B, K, H/4, W/4) maps of crops; with pairs that swap in a mirror, the mean with those of mirrored crops."""
    maps: Tensor = model(crops)
    return maps if flip_pairs is None else (maps + codec.flip_maps(model(crops.flip(-1)), flip_pairs)) / 2


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
