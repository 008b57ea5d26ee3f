"""Frames of a clip side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visionssm.drawing import beside

MOST_FRAMES = 16
_LEAST_SIDE, _LARGEST_SIDE = 64, 224


def strip_of(frames: np.ndarray) -> Image.Image:
    """(T, H, W, 3) bytes as frames side by side, `MOST_FRAMES` evenly spread ones at most, in the order of time."""
    count = min(len(frames), MOST_FRAMES)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return beside([_shown(frames[number]) for number in chosen])


def _shown(frame: np.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    side = max(image.size)
    if side < _LEAST_SIDE:
        times = -(-_LEAST_SIDE // side)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if side > _LARGEST_SIDE:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return image
