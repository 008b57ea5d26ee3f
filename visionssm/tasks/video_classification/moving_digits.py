"""Clips of one handwritten digit that moves straight in one of four directions: 40 classes, no download."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from visionssm.data.digits import DigitsDataset
from visionssm.data.errors import DatasetError
from visionssm.data.generated import SPLITS
from visionssm.tasks.video_classification.views import Views

DIRECTIONS: dict[str, tuple[int, int]] = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
"""Name of a direction: rows and columns that one step goes."""

DIGIT_SHARE = 2 / 3
"""Side of a digit, as a part of the side of the frame."""

LEAST_WAY = 0.5
"""Of a digit in a clip, as a part of the room that it has."""

_CLASSES = [f"{digit} {direction}" for digit in range(10) for direction in DIRECTIONS]


class MovingDigitDirections(Dataset):
    """Clips, each a function of the split, the seed and its index alone; nothing is stored.

    The class is the digit and its direction: which digit shows in every frame, the direction only in their order. A
    digit starts anywhere from where it can go at least half of the free way, and moves evenly. "train" is of other
    handwriting than "val" and "test", whose digits differ too.

    A sample is a dict: `inputs` (1, frames, size, size) float32 normalised, `labels` int, `index` int.

    Args:
        split: "train", "val" or "test".
        clips: how many there are.
        frames: of a clip.
        size: side of a frame; digits are two thirds of it.
        seed: another one gives other clips.

    Raises:
        DatasetError: (a ValueError) an argument is out of range.
        ImportError: scikit-learn is not installed.
    """

    def __init__(self, split: str, *, clips: int = 4000, frames: int = 8, size: int = 24, seed: int = 0) -> None:
        self.check_available(split, clips, frames, size)
        handwriting = DigitsDataset("train" if split == "train" else "val")
        part = slice(None) if split == "train" else slice(SPLITS.index(split) - 1, None, 2)
        self.side = round(size * DIGIT_SHARE)
        images, self.digits = handwriting.images[part], handwriting.labels[part].numpy()
        self.images = interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)[
            :, 0
        ].numpy()
        self.views = Views(frames=frames, size=size, channels=1, mean=(0.1,), std=(0.25,))
        self.split, self.clips, self.seed = split, clips, seed

    @staticmethod
    def check_available(split: str, clips: int = 1, frames: int = 2, size: int = 24, **_: Any) -> None:
        """Nothing can be missing; looks at the arguments.

        Raises:
            DatasetError: one is out of range.
        """
        if split not in SPLITS:
            raise DatasetError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        for name, value, least in (("clips", clips, 1), ("frames", frames, 2), ("size", size, 16)):
            if value < least:
                raise DatasetError(f"{name} must be at least {least}, got {value}")

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, "3 left" and so on, and how a clip is looked at."""
        return {"classes": list(_CLASSES), "views": self.views.plain()}

    def sample_name(self, index: int) -> str:
        """What a clip is called in files."""
        return f"{self.split}_{index:06d}"

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.clips:
            raise IndexError(f"index {index} is outside of 0 … {self.clips - 1}")
        frames, label = self.drawn(index)
        return {"inputs": self.views.normalised(torch.from_numpy(frames)[:, None]), "labels": label, "index": index}

    def drawn(self, index: int) -> tuple[np.ndarray, int]:
        """(T, H, W) bytes of a clip, and its class."""
        generator = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        image = int(generator.integers(len(self.images)))
        number = int(generator.integers(len(DIRECTIONS)))
        room = self.views.size - self.side
        way = generator.uniform(LEAST_WAY, 1.0)
        start, across = generator.uniform(0, 1 - way), generator.random()
        along = room * np.linspace(start, start + way, self.views.frames)
        down, right = list(DIRECTIONS.values())[number]
        if down + right < 0:
            along = along[::-1]
        rows = along if down else np.full(self.views.frames, room * across)
        columns = along if right else np.full(self.views.frames, room * across)
        canvas = np.zeros((self.views.frames, self.views.size, self.views.size), np.float32)
        for frame, top, left in zip(canvas, rows.round().astype(int), columns.round().astype(int), strict=True):
            frame[top : top + self.side, left : left + self.side] = self.images[image]
        return (canvas * 255).round().astype(np.uint8), int(self.digits[image]) * len(DIRECTIONS) + number
