"""Point clouds from above."""

from __future__ import annotations

from PIL import Image
from torch import Tensor


def from_above(points: Tensor, side: int = 64) -> Image.Image:
    image = Image.new("L", (side, side))
    for x, y in ((points[:, :2].clamp(-1, 1) + 1) / 2 * (side - 1)).round().int().tolist():
        image.putpixel((x, y), 255)
    return image
