"""Bad, restored and good images side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from visionssm.drawing import beside, with_title

SHOWN = 384
"""Longest side of a panel; of larger images the middle is shown, pixel by pixel."""


def comparison(panels: Mapping[str, np.ndarray]) -> Image.Image:
    """Images of one size in a row, with their titles; small ones enlarged, of large ones the middle.

    Args:
        panels: title and (H, W, C) uint8, C = 1 or 3.
    """
    return beside([with_title(_shown(pixels), title) for title, pixels in panels.items()])


def _shown(pixels: np.ndarray) -> Image.Image:
    height, width = pixels.shape[:2]
    top, left = max(0, (height - SHOWN) // 2), max(0, (width - SHOWN) // 2)
    part = pixels[top : top + SHOWN, left : left + SHOWN]
    image = Image.fromarray(np.ascontiguousarray(part if part.shape[2] == 3 else part.repeat(3, 2)))
    times = max(1, 256 // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
