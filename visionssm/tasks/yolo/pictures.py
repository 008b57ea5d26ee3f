"""Which points train on which box, drawn over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from visionssm.drawing import beside, class_colour, draw_objects, pixels, with_title
from visionssm.heads.yolo import MambaYolo, decode, grid_points
from visionssm.heads.yolo.assign import Assignment, assign
from visionssm.heads.yolo.loss import padded_targets

_SHOWN_SIDE = 640
_BACKGROUND = (148, 163, 184)
_INK = (15, 23, 42)


@torch.inference_mode()
def assignment(model: MambaYolo, image: Tensor, boxes: Tensor, labels: Tensor) -> Assignment:
    """What every point of one image trains on.

    Args:
        model: as it is, with what it finds at present.
        image: (3, H, W) in [0, 1], sides multiples of 32.
        boxes: (n, 4) left, top, right, bottom in pixels.
        labels: (n,) classes, from 0.
    Returns:
        (1, N) boxes and weights, points in the order of `grid_points`.
    """
    maps = model(image[None])
    found, scores = decode(maps, model.strides)
    points, _ = grid_points([level.shape[2:] for level in maps], model.strides)
    return assign(scores, found, points, *padded_targets([boxes], [labels], scores))


def picture_of_assignment(
    model: MambaYolo, samples: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> Image.Image:
    """Samples side by side, with their boxes and all points: those that train on a box in its colour.

    A point is drawn the larger the coarser its map is, and with a thick rim if its weight is above one half.

    Args:
        model: a detector.
        samples: of `MosaicDetection`, by title.
        classes: names; labels of the samples begin at 1.
    """
    panels = []
    for title, sample in samples.items():
        image, boxes, labels = sample["inputs"], sample["targets"]["boxes"], sample["targets"]["labels"] - 1
        given = assignment(model, image, boxes, labels)
        told = f"{int((given.box >= 0).sum())} of {given.box.shape[1]} points train on {len(boxes)} boxes"
        drawn = _drawn(model, image, boxes, [classes[n] for n in labels.tolist()], given)
        panels.append(with_title(drawn, f"{title}: {told}"))
    return beside(panels)


def _drawn(model: MambaYolo, image: Tensor, boxes: Tensor, names: Sequence[str], given: Assignment) -> Image.Image:
    scale = max(1, round(_SHOWN_SIDE / max(image.shape[1:])))
    colours = [class_colour(number) for number in range(len(boxes))]
    picture = draw_objects(Image.fromarray(pixels(image)), boxes.numpy(), names, colours, scale=scale)
    pen = ImageDraw.Draw(picture)
    shapes = [[side // stride for side in image.shape[1:]] for stride in model.strides]
    points, sizes = grid_points(shapes, model.strides)
    for (x, y), size, box, weight in zip(
        points.tolist(), sizes[:, 0].tolist(), given.box[0].tolist(), given.weight[0].tolist(), strict=True
    ):
        radius = scale * size * (0.16 if box >= 0 else 0.05)
        place = (x * scale - radius, y * scale - radius, x * scale + radius, y * scale + radius)
        if box >= 0:
            pen.ellipse(place, fill=colours[box], outline=_INK, width=3 if weight > 0.5 else 1)
        else:
            pen.ellipse(place, fill=_BACKGROUND)
    return picture
