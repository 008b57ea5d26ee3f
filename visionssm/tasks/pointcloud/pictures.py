"""Point clouds and boxes as pictures: seen from above, and on the camera's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from visionssm.drawing import class_colour, with_legend
from visionssm.pointcloud.boxes import corners
from visionssm.tasks.pointcloud.kitti import Calibration

PAPER, INK = (255, 255, 255), (100, 116, 139)
TRUTH = (15, 23, 42)
_EDGES = [(i, (i + 1) % 4) for i in range(4)]
_EDGES += [(a + 4, b + 4) for a, b in _EDGES] + [(i, i + 4) for i in range(4)]
_NEAREST = 0.1  # metres before the camera

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Above:
    """Where a scene is drawn, seen from above: ahead is up, left is left.

    Attributes:
        low, high: x and y of two corners in metres.
        scale: pixels per metre.
    """

    low: Sequence[float]
    high: Sequence[float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return math.ceil((self.high[1] - self.low[1]) * self.scale), math.ceil(
            (self.high[0] - self.low[0]) * self.scale
        )

    def pixels(self, xy: np.ndarray) -> np.ndarray:
        """(…, 2) x and y in metres to (…, 2) column and row."""
        return np.stack([(self.high[1] - xy[..., 1]) * self.scale, (self.high[0] - xy[..., 0]) * self.scale], -1)


def view_of(point_range: Sequence[float], side: int = 640) -> Above:
    """The view of a range (x, y, z of two corners) whose longer side has so many pixels."""
    low, high = point_range[:2], point_range[3:5]
    return Above(low, high, side / max(b - a for a, b in zip(low, high, strict=True)))


def seen_from_above(points: np.ndarray, view: Above) -> Image.Image:
    """Points, the higher the darker."""
    pixels = np.full((view.size[1], view.size[0]), 255, dtype=np.uint8)
    near = (points[:, :2] >= view.low) & (points[:, :2] <= view.high)  # numbers may be too large for pixels
    points = points[near.all(1)]
    places = np.floor(view.pixels(points[:, :2])).astype(int)
    inside = ((places >= 0) & (places < view.size)).all(1)
    shade = np.clip(190 - 55 * (points[inside, 2] + 2), 40, 200).astype(np.uint8)
    np.minimum.at(pixels, (places[inside, 1], places[inside, 0]), shade)
    return Image.fromarray(pixels).convert("RGB")


def draw_above(
    image: Image.Image, boxes: np.ndarray, colours: Sequence[Colour], view: Above, *, width: int = 2
) -> None:
    """Draw (M, 7) boxes into a picture of `seen_from_above`, with a line from the centre to the front."""
    pen = ImageDraw.Draw(image)
    outlines = view.pixels(_corners(boxes)[:, :4, :2])
    front = boxes[:, :2] + np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1) * boxes[:, 3:4] / 2
    for outline, start, end, colour in zip(
        outlines, view.pixels(boxes[:, :2]), view.pixels(front), colours, strict=True
    ):
        pen.line([tuple(x) for x in (*outline.tolist(), outline[0].tolist())], fill=colour, width=width)
        pen.line([tuple(start.tolist()), tuple(end.tolist())], fill=colour, width=width)


def draw_on_image(image: Image.Image, boxes: np.ndarray, colours: Sequence[Colour], calibration: Calibration) -> None:
    """Draw the edges of (M, 7) boxes into the camera's picture, as far as they are before the camera."""
    pen = ImageDraw.Draw(image)
    for box, colour in zip(_corners(boxes), colours, strict=True):
        places = calibration.to_camera(box)
        for a, b in _EDGES:
            ends = _before_camera(places[a], places[b])
            if ends is not None:
                pixels, _ = calibration.to_image(ends)
                limits = 10 * max(image.size)
                pen.line([tuple(x) for x in np.clip(pixels, -limits, limits).tolist()], fill=colour, width=2)


def _before_camera(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """(2, 3) the part of an edge that is before the camera; None if there is none."""
    if a[2] < _NEAREST and b[2] < _NEAREST:
        return None
    share = (_NEAREST - a[2]) / (b[2] - a[2]) if a[2] != b[2] else 0.0
    cut = a + share * (b - a)
    return np.stack([cut if a[2] < _NEAREST else a, cut if b[2] < _NEAREST else b])


def colours_of(numbers: Sequence[int]) -> list[Colour]:
    """The colour of each class number."""
    return [class_colour(int(number)) for number in numbers]


def with_classes(image: Image.Image, classes: Sequence[str], numbers: Sequence[int], *, truth: bool) -> Image.Image:
    """The picture with a legend of the classes that occur, and of truths."""
    entries = [(classes[number], class_colour(number)) for number in sorted({int(x) for x in numbers})]
    return with_legend(image, [*entries, *([("truth", TRUTH)] if truth else [])])


def _corners(boxes: np.ndarray) -> np.ndarray:
    return corners(torch.from_numpy(boxes[:, :7].astype(np.float64))).numpy()
