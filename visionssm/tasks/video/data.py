"""Clips of handwritten digits that bounce around, as in Moving MNIST, made from scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from visionssm.data.digits import DigitsDataset

DIGIT_SHARE = 28 / 64
"""Side of a digit, as a part of the side of the frame."""

STEP = 0.15
"""Way of a digit from frame to frame, as a part of the way from wall to wall."""

_SPLIT_STREAM = {"train": 0, "val": 1}


class MovingDigits(Dataset):
    """Clips, each a function of the split, the seed and its index alone; no download, nothing stored.

    A digit starts anywhere, moves straight on and is thrown back by the walls; where digits overlap the brighter one is
    seen (Srivastava et al. 2015, arXiv 1502.04681; start, speed and walls as in the ConvS5 paper's data). The two
    splits are of different handwriting.

    A sample is a dict: `inputs` (frames, size, size, 1) float32 in [−1, 1], `index` int.

    Args:
        split: "train" or "val".
        clips: how many there are.
        frames: of a clip.
        size: side of a frame; digits are 28/64 of it.
        digits: in a clip.
        seed: another one gives other clips.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-learn is not installed.
    """

    def __init__(
        self, split: str, *, clips: int = 1024, frames: int = 20, size: int = 64, digits: int = 2, seed: int = 0
    ) -> None:
        for name, value, least in (
            ("clips", clips, 1),
            ("frames", frames, 1),
            ("size", size, 8),
            ("digits", digits, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        images = DigitsDataset(split).images  # (n, 1, 8, 8), also checks the split
        self.side = round(size * DIGIT_SHARE)
        self.digits = interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)[
            :, 0
        ].numpy()
        self.split, self.clips, self.frames, self.size, self.count, self.seed = split, clips, frames, size, digits, seed

    @property
    def metainfo(self) -> dict[str, Any]:
        """Shape and range of a clip."""
        return {"clip": {"frames": self.frames, "size": (self.size, self.size, 1), "range": (-1.0, 1.0)}}

    def sample_name(self, index: int) -> str:
        """What a clip is called in files."""
        return f"{self.split}_{index:06d}"

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.clips:
            raise IndexError(f"index {index} is outside of 0 … {self.clips - 1}")
        generator = np.random.default_rng([self.seed, _SPLIT_STREAM[self.split], index])
        canvas = np.zeros((self.frames, self.size, self.size), np.float32)
        for number in generator.integers(len(self.digits), size=self.count):
            path = bouncing_path(generator, self.frames) * (self.size - self.side)
            for frame, (top, left) in zip(canvas, path.astype(int), strict=True):
                place = frame[top : top + self.side, left : left + self.side]
                np.maximum(place, self.digits[number], out=place)
        return {"inputs": _normalised(canvas), "index": index}


def bouncing_path(generator: np.random.Generator, frames: int, step: float = STEP) -> np.ndarray:
    """(frames, 2) positions in the unit square: uniform start and direction, walls turn the velocity round.

    A position beyond a wall is put onto it.
    """
    position = generator.random(2)
    angle = 2 * np.pi * generator.random()
    velocity = step * np.array([np.sin(angle), np.cos(angle)])
    path = np.empty((frames, 2))
    for t in range(frames):
        path[t] = position
        position = position + velocity
        outside = (position < 0) | (position > 1)
        position, velocity = position.clip(0, 1), np.where(outside, -velocity, velocity)
    return path


def _normalised(canvas: np.ndarray) -> Tensor:
    """Levels of 8 bits as in stored videos, from [0, 1] to [−1, 1]; with a channel axis."""
    levels = torch.from_numpy(canvas).mul(255).round()
    return (levels / 255 * 2 - 1).unsqueeze(-1)
