"""Crops of people as networks take them, and what networks find in them, the same in evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.heads.pose import affine, codec
from visionssm.heads.pose.heatmap import PoseNetwork
from visionssm.tasks.pose.regions import MEAN, STD, Crop, normalised, placed

__all__ = ["MEAN", "STD", "Crop", "cut", "heat_maps", "placed", "shown"]


def cut(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(3, H, W) float32: an RGB image sent through a (2, 3) matrix, normalised."""
    return torch.from_numpy(normalised(affine.warp(np.asarray(image), matrix, size)))


def shown(crop: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 pixels of a crop."""
    pixels = crop.detach().cpu().float().permute(1, 2, 0).numpy() * STD + MEAN
    return pixels.round().clip(0, 255).astype(np.uint8)


def heat_maps(model: PoseNetwork, crops: Tensor, flip_pairs: Sequence[tuple[int, int]] | None) -> Tensor:
    """(B, K, H/4, W/4) maps of crops; with pairs that swap in a mirror, the mean with those of mirrored crops."""
    maps: Tensor = model(crops)
    return maps if flip_pairs is None else (maps + codec.flip_maps(model(crops.flip(-1)), flip_pairs)) / 2
