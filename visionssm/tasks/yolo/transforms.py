"""Changes of an image together with its boxes: letter box, Mosaic, scale and shift, colours, mirror.

All are functions of their arguments; `visionssm.tasks.yolo.data` draws these. Images are (3, H, W) float tensors in
[0, 1], boxes left, top, right, bottom in pixels. What no image covers is grey, `GREY`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.tasks.yolo.letterbox import GREY, filled, fitted

_LEAST_SIDE = 2.0
_LEAST_AREA_LEFT = 0.1
_MOST_ASPECT = 100.0


class Scene(NamedTuple):
    """An image and the objects in it.

    Attributes:
        image: (3, H, W) in [0, 1].
        boxes: (n, 4) left, top, right, bottom in pixels.
        labels: (n,) classes.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor

    def where(self, kept: Tensor) -> Scene:
        """The same with those objects alone that a bool mask chooses."""
        return Scene(self.image, self.boxes[kept], self.labels[kept])


class LetterBox(NamedTuple):
    """An image scaled to fit a square and filled up with grey at the right and at the bottom.

    Attributes:
        image: (3, H', W').
        scale: of x and of y, which rounding to whole pixels makes differ a little.
        size: (H, W) of the image itself.
    """

    image: Tensor
    scale: tuple[float, float]
    size: tuple[int, int]

    def inside(self, boxes: Tensor) -> Tensor:
        """(n, 4) boxes of the image itself as they are in the letter box."""
        return boxes * boxes.new_tensor(self.scale * 2)

    def outside(self, boxes: Tensor) -> Tensor:
        """(n, 4) boxes in the letter box as they are in the image itself, clipped to it."""
        height, width = self.size
        largest = boxes.new_tensor([width, height] * 2)
        return torch.minimum((boxes / boxes.new_tensor(self.scale * 2)).clamp(min=0), largest)


def scaled(image: Tensor, side: int) -> Tensor:
    """(3, H, W) with the longer side as long as given, and the other in proportion, at least 1."""
    height, width = image.shape[1:]
    shape = fitted(height, width, side)
    if shape == (height, width):
        return image
    return F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0].clamp(0, 1)


def letterboxed(image: Tensor, side: int, multiple: int = 32, *, square: bool = False) -> LetterBox:
    """Scale an image to fit a square of this side, and fill it up.

    Args:
        image: (3, H, W).
        side: of the square, in pixels.
        multiple: what both sides of the result are multiples of.
        square: fill up to the whole square, as in training.

    Examples:
        >>> box = letterboxed(torch.zeros(3, 30, 60), 64)
        >>> box.image.shape, box.inside(torch.tensor([[0.0, 0.0, 60.0, 30.0]])).tolist()
        (torch.Size([3, 32, 64]), [[0.0, 0.0, 64.0, 32.0]])
    """
    small = scaled(image, side)
    height, width = small.shape[1:]
    bottom, right = (side, side) if square else filled(height, width, multiple)
    boxed = F.pad(small, (0, right - width, 0, bottom - height), value=GREY)
    size = image.shape[1], image.shape[2]
    return LetterBox(boxed, (width / size[1], height / size[0]), size)


def mosaic(scenes: Sequence[Scene], side: int, centre: tuple[int, int]) -> Scene:
    """Four images around a point of a canvas of twice the side: left and right above it, left and right below it.

    Each is scaled to fit a square of the side and touches the point with a corner; what reaches out of the canvas is
    cut off. Objects keep the pixels that they have in the scaled images.

    Args:
        scenes: four.
        side: in pixels.
        centre: x and y of the point.
    """
    canvas = scenes[0].image.new_full((3, 2 * side, 2 * side), GREY)
    boxes, labels = [], []
    for place, scene in enumerate(scenes):
        image = scaled(scene.image, side)
        height, width = image.shape[1:]
        left = centre[0] - (width if place % 2 == 0 else 0)
        top = centre[1] - (height if place < 2 else 0)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, 2 * side), min(top + height, 2 * side)
        canvas[:, y0:y1, x0:x1] = image[:, y0 - top : y1 - top, x0 - left : x1 - left]
        scale = scene.boxes.new_tensor([width / scene.image.shape[2], height / scene.image.shape[1]] * 2)
        boxes.append(scene.boxes * scale + scene.boxes.new_tensor([left, top] * 2))
        labels.append(scene.labels)
    whole = torch.cat(boxes).clamp(0, 2 * side)
    return _with_area(Scene(canvas, whole, torch.cat(labels)))


def _with_area(scene: Scene) -> Scene:
    """The scene without the boxes of which nothing is left."""
    return scene.where((scene.boxes[:, 2:] > scene.boxes[:, :2]).all(1))


def zoomed(scene: Scene, side: int, scale: float, centre: tuple[float, float]) -> Scene:
    """A square cut-out at another scale (an affine map without rotation and shear), and what it leaves of the objects.

    An object is dropped if less than a tenth of its area is left, if a side is not longer than 2 pixels, or if one is
    a hundred times as long as the other.

    Args:
        scene: of any size.
        side: of the square, in pixels.
        scale: pixels of the result per pixel of the scene.
        centre: x and y in the square, in pixels, of the middle of the scene.
    """
    height, width = scene.image.shape[1:]
    shift = centre[0] - scale * width / 2, centre[1] - scale * height / 2
    x, y = (((torch.arange(side) + 0.5 - offset) / scale) for offset in shift)
    grid = torch.stack([(2 * x / width - 1).expand(side, -1), (2 * y / height - 1)[:, None].expand(-1, side)], -1)
    image = F.grid_sample(scene.image[None] - GREY, grid[None].to(scene.image), align_corners=False)[0] + GREY
    moved = scene.boxes * scale + scene.boxes.new_tensor(shift * 2)
    boxes = moved.clamp(0, side)
    before, after = ((x[:, 2:] - x[:, :2]).unbind(1) for x in (moved, boxes))
    longer, shorter = torch.maximum(*after), torch.minimum(*after)
    kept = (shorter > _LEAST_SIDE) & (longer < _MOST_ASPECT * shorter)
    kept &= after[0] * after[1] > _LEAST_AREA_LEFT * before[0] * before[1]
    return Scene(image, boxes, scene.labels).where(kept)


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged."""
    left, top, right, bottom = scene.boxes.unbind(1)
    width = scene.image.shape[2]
    return Scene(scene.image.flip(2), torch.stack([width - right, top, width - left, bottom], 1), scene.labels)


def recoloured(image: Tensor, gains: Sequence[float]) -> Tensor:
    """(3, H, W) with hue, saturation and value multiplied by three numbers; the hue goes round, the others are cut."""
    value, brightest = image.max(0)
    spread = value - image.amin(0)
    saturation = spread / value.clamp(min=1e-12)
    red, green, blue = image
    by_brightest = torch.stack([green - blue, blue - red, red - green]) / spread.clamp(min=1e-12)
    hue = by_brightest.gather(0, brightest[None])[0] / 6 + brightest / 3  # in turns, from red
    hue = (hue % 1) * gains[0] % 1
    saturation, value = (saturation * gains[1]).clamp(0, 1), (value * gains[2]).clamp(0, 1)
    sixth = (torch.tensor([5.0, 3.0, 1.0])[:, None, None].to(image) + 6 * hue) % 6
    return value * (1 - saturation * torch.minimum(sixth, 4 - sixth).clamp(0, 1))
