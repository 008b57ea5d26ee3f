"""Arrow pointing (Pöppel et al. 2025, arXiv 2506.11997, section 5): does the arrow's ray hit the disc?

Images are drawn, not stored: sample i of a seed is the same everywhere, and equals that of the published generator.
Sizes are in pixels whatever the size of the canvas, so that larger canvases ask a model for longer distances than it
was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import Dataset

from visionssm.data.spelling import closest

PADDING = 30
RADIUS = (15, 30)
ARROW_LENGTH = (15, 30)
ARROW_WIDTH = (2, 4)
POSITIVE_SHARE = 0.5
MARGIN = 1.2  # by which hits go well through the disc, and misses well past it
BARB_SHARE = 2.5  # arrows are so many times as long as their barbs
BARB_ANGLE = 0.5  # between barb and shaft, in radians


@dataclass(frozen=True)
class Split:
    """A published part of the data."""

    size: int  # side of the canvas
    seed: int
    samples: int


SPLITS = {
    "train": Split(192, 42, 100_000),
    "val": Split(192, 100_042, 5_120),
    "val_ext": Split(384, 100_043, 5_120),
    "test": Split(192, 200_042, 10_240),
    "test_ext": Split(384, 200_043, 10_240),
}
"""Those named `_ext` are for extrapolation: nobody trains on canvases of that size."""


@dataclass(frozen=True)
class Arrow:
    """A sample before it is drawn: x is the column and y the row of a pixel, both of the middle of an object."""

    label: int  # 1: the ray hits the disc
    arrow_x: float
    arrow_y: float
    angle: float  # in radians, from the x axis towards the y axis
    circle_x: float
    circle_y: float
    radius: float
    arrow_length: int
    arrow_width: int


def draw_parameters(
    seed: int,
    index: int,
    size: tuple[int, int],
    *,
    arrow_length: tuple[int, int] = ARROW_LENGTH,
    arrow_width: tuple[int, int] = ARROW_WIDTH,
) -> Arrow:
    """Sample number `index` of a seed on a (width, height) canvas, as the published generator draws it.

    The disc is two radii or more away from the arrow, along x and along y. Rays that hit it pass its middle at less
    than 1 / 1.2 radii, and others at more than 1.2 or on the other side. The ranges of the
    arrow's length and width (first number included, second not) change nothing else of a sample.
    """
    first = int(np.random.default_rng(seed).integers(2**62))
    generator = np.random.default_rng(first + index)
    label = int(generator.uniform(0, 1) < POSITIVE_SHARE)
    length = int(generator.uniform(*arrow_length))
    width = int(generator.uniform(*arrow_width))
    inner = [side - 2 * PADDING for side in size]
    arrow_x = inner[0] * generator.random()
    arrow_y = inner[0] * generator.random()  # the published generator takes the first side twice
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * generator.random()
    circle_x = _away_from(arrow_x, radius, inner[0], generator)
    circle_y = _away_from(arrow_y, radius, inner[1], generator)
    to_x, to_y = circle_x - arrow_x, circle_y - arrow_y
    border = radius / MARGIN if label else radius * MARGIN
    half_angle = math.acos(math.sqrt(abs(1 - border**2 / (to_x**2 + to_y**2))))
    towards = math.atan2(to_y, to_x)
    if label:
        angle = towards - half_angle + 2 * half_angle * generator.random()
    else:
        angle = towards + half_angle + (2 * math.pi - 2 * half_angle) * generator.random()
    return Arrow(
        label,
        arrow_x + PADDING,
        arrow_y + PADDING,
        angle,
        circle_x + PADDING,
        circle_y + PADDING,
        radius,
        length,
        width,
    )


def _away_from(arrow: float, radius: float, inner: int, generator: np.random.Generator) -> float:
    """A coordinate at least two radii from the arrow's, on the axis closed to a circle."""
    place = arrow + 2 * radius + (inner - 4 * radius) * generator.random()
    return place - inner if place > inner else place


def draw(arrow: Arrow, size: tuple[int, int]) -> Image.Image:
    """Black on white, without smoothing: RGB of (width, height) pixels."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    half = arrow.arrow_length // 2
    along_x, along_y = math.cos(arrow.angle), math.sin(arrow.angle)
    tip = (arrow.arrow_x + half * along_x, arrow.arrow_y + half * along_y)
    tail = (arrow.arrow_x - half * along_x, arrow.arrow_y - half * along_y)
    pen.line([tail, tip], fill="black", width=arrow.arrow_width)
    barb = arrow.arrow_length // BARB_SHARE
    for angle in (arrow.angle - BARB_ANGLE, arrow.angle + BARB_ANGLE):
        end = (tip[0] - barb * math.cos(angle), tip[1] - barb * math.sin(angle))
        pen.line([end, tip], fill="black", width=arrow.arrow_width)
    x, y, r = arrow.circle_x, arrow.circle_y, arrow.radius
    pen.ellipse([x - r, y - r, x + r, y + r], fill="black")
    return image


class ArrowPointingDataset(Dataset):
    """Arrows and discs of a published split, or of any number, seed and size.

    A sample is a dict: `inputs` (3, size, size) float32 normalised, `labels` int, `index` int.

    Args:
        split: a name in `SPLITS`; only `train` is for training.
        samples: the first so many of the split; None for all.
        seed: other samples than the published ones; None for those.
        size: side of the canvas in pixels, 180 or more; None for the published one.
        shrink: make the drawn image smaller by this whole factor (mean of the pixels), for small models.
        arrow_length, arrow_width: pixels from a first number up to a second that is not reached; published by default.
        mean, std: of the normalisation, by channel; published is ImageNet's. A mean of one makes the background zero.

    Raises:
        ValueError: no such split, or a value is out of its range.
    """

    def __init__(
        self,
        split: str,
        *,
        samples: int | None = None,
        seed: int | None = None,
        size: int | None = None,
        shrink: int = 1,
        arrow_length: tuple[int, int] = ARROW_LENGTH,
        arrow_width: tuple[int, int] = ARROW_WIDTH,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}; closest: {closest(split, SPLITS)}")
        published = SPLITS[split]
        self.samples = published.samples if samples is None else samples
        self.seed = published.seed if seed is None else seed
        self.size = published.size if size is None else size
        self.shrink = shrink
        if self.samples < 1:
            raise ValueError(f"samples={samples} must be at least 1")
        if self.size < 2 * PADDING + 4 * RADIUS[1]:
            raise ValueError(
                f"size={self.size} leaves no room for a disc away from the arrow; give {2 * PADDING + 4 * RADIUS[1]} "
                "pixels or more"
            )
        if shrink < 1 or self.size % shrink:
            raise ValueError(f"shrink={shrink} does not divide the size of {self.size} pixels")
        self.arrow_length, self.arrow_width = arrow_length, arrow_width
        if not 1 <= self.arrow_length[0] <= self.arrow_length[1] <= 2 * PADDING:
            raise ValueError(f"arrow_length={arrow_length} must rise, from 1 to {2 * PADDING}: others leave the canvas")
        if not 1 <= self.arrow_width[0] <= self.arrow_width[1]:
            raise ValueError(f"arrow_width={arrow_width} must rise, from 1")
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"mean={mean} and std={std} must have three numbers each, those of std above 0")
        self.mean, self.std = tuple(mean), tuple(std)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, and the model input that goes with these images."""
        side = self.size // self.shrink
        return {
            "classes": ["miss", "hit"],
            "input": {
                "size": (3, side, side),
                "mean": self.mean,
                "std": self.std,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
            },
        }

    def sample_name(self, index: int) -> str:
        """Seed and number."""
        return f"arrow_{self.seed}_{index:06d}"

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.samples:
            raise IndexError(f"index {index} is outside the {self.samples} samples")
        canvas = (self.size, self.size)
        arrow = draw_parameters(self.seed, index, canvas, arrow_length=self.arrow_length, arrow_width=self.arrow_width)
        image = draw(arrow, canvas)
        if self.shrink > 1:
            image = image.reduce(self.shrink)
        return {"inputs": self._normalised(image), "labels": arrow.label, "index": index}

    def _normalised(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (pixels - mean) / std
