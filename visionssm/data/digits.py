"""Handwritten digits that ship with scikit-learn: real images, no download (UCI ML, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torch.utils.data import Dataset

SPLIT_SEED = 20240501
"""Fixed, so that held-out accuracies of different runs and recipes are comparable."""

MEAN, STD = 0.3053, 0.3760
"""Of the 8×8 pixels of all 1797 images, scaled to [0, 1]."""


class DigitsDataset(Dataset):
    """1797 grayscale digits of 8×8 pixels in a fixed, stratified split, resized (bilinear) to `size`².

    A sample is a dict: `inputs` (1, size, size) float32 normalised, `labels` int, `index` int.

    Args:
        split: "train" or "val".
        size: side of the returned images.
        val_fraction: held-out share of every class.
        augment: largest random change of a training image, `dict(degrees=…, translate=…, scale=…)`, translate and scale
            being fractions of the image; None for none.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int = 32,
        val_fraction: float = 0.25,
        augment: Mapping[str, float] | None = None,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        if size < 8:
            raise ValueError(f"size must be at least 8, the size of the images, got {size}")
        unknown = set(augment or ()) - {"degrees", "translate", "scale"}
        if unknown:
            raise ValueError(f"augment has unknown keys {sorted(unknown)}; the keys are degrees, translate, scale")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError("the digits ship with scikit-learn: pip install visionssm[train]") from error
        digits = load_digits()
        chosen = _split_indices(digits.target, val_fraction)[split]
        self.images = torch.from_numpy(digits.images[chosen].astype(np.float32) / 16).unsqueeze(1)  # (n, 1, 8, 8)
        self.labels = torch.from_numpy(digits.target[chosen].astype(np.int64))
        self.numbers = chosen
        self.size = size
        self.augment = dict(augment) if augment else None

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, and the model input that goes with these images."""
        size = (1, self.size, self.size)
        return {
            "classes": [str(digit) for digit in range(10)],
            "input": {"size": size, "mean": (MEAN,), "std": (STD,), "interpolation": "bilinear", "crop_pct": 1.0},
        }

    def sample_name(self, index: int) -> str:
        """Number of the image in `sklearn.datasets.load_digits()`."""
        return f"digit_{int(self.numbers[index]):04d}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index : index + 1]  # (1, 1, 8, 8)
        if self.augment is None:
            image = interpolate(image, size=(self.size, self.size), mode="bilinear", align_corners=False)
        else:
            grid = affine_grid(_random_affine(**self.augment), [1, 1, self.size, self.size], align_corners=False)
            image = grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return {"inputs": (image[0] - MEAN) / STD, "labels": int(self.labels[index]), "index": index}


def _random_affine(degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0) -> Tensor:
    """(1, 2, 3) map from output to input coordinates in [−1, 1], uniform within the given ranges."""
    angle, zoom, right, down = (torch.rand(4) * 2 - 1).tolist()
    radians, factor = np.deg2rad(angle * degrees), 1 + zoom * scale
    cos, sin = factor * np.cos(radians), factor * np.sin(radians)
    return torch.tensor([[[cos, -sin, 2 * right * translate], [sin, cos, 2 * down * translate]]], dtype=torch.float32)


def _split_indices(labels: np.ndarray, val_fraction: float) -> dict[str, np.ndarray]:
    """Indices of either split in rising order; every class has its share in both."""
    generator = np.random.default_rng(SPLIT_SEED)
    val: list[int] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        val.extend(members[: round(len(members) * val_fraction)].tolist())
    mask = np.zeros(len(labels), dtype=bool)
    mask[val] = True
    return {"train": np.flatnonzero(~mask), "val": np.flatnonzero(mask)}
