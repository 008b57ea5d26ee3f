"""What a classifier's images go through before the network, in Pillow and NumPy: timm's evaluation transform."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
}
CROP_MODES = ("center", "squash", "border")
LARGEST_SIDE = 4096
LARGEST_RESIZED = 1 << 26
"""Pixels that a long narrow image may have when its short side has been resized; 200 megabytes as RGB."""


@dataclass(frozen=True)
class EvaluationTransform:
    """An image to the (C, H, W) float32 input of a classifier.

    It gives the values of `timm.data.create_transform(…, is_training=False)` on Pillow's images.

    Attributes:
        input_size: (C, H, W).
        mean, std: of every channel, of images in [0, 1].
        interpolation: one of `INTERPOLATIONS`.
        crop_pct: share of the resized image that is left.
        crop_mode: "center" resizes the short side and crops, "squash" resizes both sides, "border" the long side and
            fills up with the mean.

    Raises:
        ValueError: an attribute is none of these, or out of bounds.

    Examples:
        >>> from PIL import Image
        >>> EvaluationTransform((3, 224, 224), (0.5,) * 3, (0.5,) * 3)(Image.new("RGB", (80, 60))).shape
        (3, 224, 224)
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        sides = self.input_size
        if not (_numbers(sides, int) and len(sides) == 3 and sides[0] in (1, 3) and _within(sides, 1, LARGEST_SIDE)):
            raise ValueError(f"input_size must be 1 or 3 channels, height and width to {LARGEST_SIDE}, got {sides!r}")
        for name, low in (("mean", -1e3), ("std", 1e-3)):
            values = getattr(self, name)
            if not (_numbers(values) and len(values) == sides[0] and _within(values, low, 1e3)):
                raise ValueError(f"{name} must be {sides[0]} numbers, from {low:g} to 1000, got {values!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode must be one of {', '.join(CROP_MODES)}, got {self.crop_mode!r}")
        if not _numbers([self.crop_pct]) or not 0.1 <= self.crop_pct <= 2:
            raise ValueError(f"crop_pct must be from 0.1 to 2, got {self.crop_pct!r}")

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> EvaluationTransform:
        """The transform that timm's data configuration describes, as exported files have it.

        Raises:
            ValueError: something is missing or out of bounds.
        """
        missing = [name for name in ("input_size", "mean", "std") if name not in facts]
        if missing:
            raise ValueError(f"{', '.join(missing)} is missing")
        known = [name for name in cls.__dataclass_fields__ if facts.get(name) is not None]
        given: dict[str, Any] = {name: tuple(x) if isinstance(x := facts[name], list) else x for name in known}
        return cls(**given)

    @property
    def mode(self) -> str:
        """Of the images: "RGB", or "L" for one channel."""
        return "RGB" if self.input_size[0] == 3 else "L"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(C, H, W) float32.

        Args:
            image: of `mode`.
        Raises:
            ValueError: the image is so long and narrow that it would not fit into memory with its short side resized.
        """
        height, width = self._resized(image.height, image.width)
        if height * width > LARGEST_RESIZED:
            raise ValueError(f"an image of {image.width}×{image.height} pixels is too narrow: crop it first")
        if (width, height) != image.size:
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        pixels = np.asarray(self._cropped(image), dtype=np.uint8).reshape(*self.input_size[1:], self.input_size[0])
        scaled = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        mean, std = (np.asarray(x, dtype=np.float32)[:, None, None] for x in (self.mean, self.std))
        return np.ascontiguousarray((scaled - mean) / std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image of this height and width is resized."""
        goal = [math.floor(side / self.crop_pct) for side in self.input_size[1:]]
        if self.crop_mode == "squash":
            return goal[0], goal[1]
        if self.crop_mode == "center" and goal[0] == goal[1]:
            short, long = min(height, width), max(height, width)
            grown = int(goal[0] * long / short)
            return (goal[0], grown) if height <= width else (grown, goal[0])
        ratios = height / goal[0], width / goal[1]
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The centre of the image, filled up where the image is smaller."""
        _, height, width = self.input_size
        missing = max(0, width - image.width), max(0, height - image.height)
        if any(missing):
            fill = tuple(round(255 * value) if self.crop_mode == "border" else 0 for value in self.mean)
            border = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
            image = ImageOps.expand(image, border, fill if len(fill) > 1 else fill[0])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def _numbers(values: Any, kinds: type | tuple[type, ...] = (int, float)) -> bool:
    if not isinstance(values, (list, tuple)) or any(isinstance(x, bool) or not isinstance(x, kinds) for x in values):
        return False
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())


def _within(values: Sequence[float], low: float, high: float) -> bool:
    return all(low <= x <= high for x in values)
