"""Points on spheres and on cubes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

CLASSES = ["sphere", "cube"]


def cloud(label: int, seed: int, points: int = 64) -> np.ndarray:
    """(points, 3) float32: directions, of length 1 or reaching to the cube's faces."""
    directions = np.random.default_rng(seed).normal(size=(points, 3))
    norm = np.linalg.norm(directions, axis=1) if label == 0 else np.abs(directions).max(1)
    return (directions / norm[:, None]).astype(np.float32)


class PointClouds(Dataset):
    """Clouds of changing size: `inputs` (N, 3), `labels`, `index`."""

    metainfo = {"classes": CLASSES}  # noqa: RUF012

    def __init__(self, split: str, count: int = 16) -> None:
        self.split, self.count = split, count

    def sample_name(self, index: int) -> str:
        return f"{self.split}{index}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        points = cloud(index % 2, 1000 * (self.split == "val") + index, points=64 + index)
        return {"inputs": torch.from_numpy(points), "labels": index % 2, "index": index}
