"""Boxes in space: rows x, y, z of the centre, length, width, height (dx, dy, dz), heading counter-clockwise about z."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.kernels import rotated_nms

LEAST_SIZE = 1e-5
BOX = ("x", "y", "z", "length", "width", "height", "heading")
VELOCITY = ("vx", "vy")
"""Numbers of a box, and further ones of the heads that tell how fast it moves along x and y, in metres per second."""


class Truth(NamedTuple):
    """The boxes of a sample.

    Attributes:
        boxes: (M, 7), or with further columns, as velocities.
        labels: (M,) int64 class numbers, from 0.
    """

    boxes: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What was found in a sample, best first.

    Attributes:
        boxes: (M, 7) of `BOX`, or (M, 9) with `VELOCITY`.
        scores: (M,) between 0 and 1.
        labels: (M,) class numbers, from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def precise(x: Tensor) -> Tensor:
    """In float32 at least, as heads say their numbers: places in metres or cells have no room in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def wrapped(angle: Tensor, offset: float = 0.5, period: float = 2 * math.pi) -> Tensor:
    """The angle plus a multiple of the period, in [−offset·period, (1 − offset)·period)."""
    return angle - torch.floor(angle / period + offset) * period


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(…, 7) offsets of boxes from anchors of the same shape (the residual code of SECOND)."""
    x, y, z, dx, dy, dz, heading = boxes.unbind(-1)
    xa, ya, za, dxa, dya, dza, turn = anchors.unbind(-1)
    dx, dy, dz, dxa, dya, dza = (size.clamp(min=LEAST_SIZE) for size in (dx, dy, dz, dxa, dya, dza))
    diagonal = torch.sqrt(dxa**2 + dya**2)
    places = ((x - xa) / diagonal, (y - ya) / diagonal, (z - za) / dza)
    return torch.stack([*places, (dx / dxa).log(), (dy / dya).log(), (dz / dza).log(), heading - turn], -1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """(…, 7) boxes of offsets from anchors: undoes `encode`."""
    cx, cy, cz, lx, ly, lz, turn = codes.unbind(-1)
    xa, ya, za, dxa, dya, dza, heading = anchors.unbind(-1)
    diagonal = torch.sqrt(dxa**2 + dya**2)
    places = (cx * diagonal + xa, cy * diagonal + ya, cz * dza + za)
    return torch.stack([*places, lx.exp() * dxa, ly.exp() * dya, lz.exp() * dza, turn + heading], -1)


def footprints(boxes: Tensor) -> Tensor:
    """(N, 4) x and y of the lowest and highest corner of (N, 7) boxes turned to the nearer axis."""
    turn = wrapped(boxes[:, 6], period=math.pi).abs()
    size = torch.where((turn < math.pi / 4)[:, None], boxes[:, 3:5], boxes[:, [4, 3]])
    return torch.cat([boxes[:, :2] - size / 2, boxes[:, :2] + size / 2], 1)


def nearest_bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) intersection over union, seen from above, of (N, 7) and (M, 7) boxes turned to their nearer axes."""
    first, second = footprints(a)[:, None], footprints(b)[None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (first, second)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-6)


def corners(boxes: Tensor) -> Tensor:
    """(N, 8, 3) corners of (N, 7) boxes: the lower face counter-clockwise from front left, and the upper one."""
    signs = boxes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    flat = signs * boxes[:, None, 3:5]  # (N, 4, 2)
    cos, sin = boxes[:, 6].cos()[:, None], boxes[:, 6].sin()[:, None]
    x = flat[..., 0] * cos - flat[..., 1] * sin + boxes[:, None, 0]
    y = flat[..., 0] * sin + flat[..., 1] * cos + boxes[:, None, 1]
    faces = [torch.stack([x, y, (boxes[:, 2] + side * boxes[:, 5] / 2)[:, None].expand_as(x)], -1) for side in (-1, 1)]
    return torch.cat(faces, 1)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(M, N) whether each of (M, 3) points is in each of (N, 7) boxes, their faces included."""
    offset = points[:, None, :3] - boxes[None, :, :3]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    local = torch.stack([along, across, offset[..., 2]], -1)
    return (local.abs() <= boxes[None, :, 3:6] / 2).all(-1)


def suppressed(found: Detections, threshold: float, before: int, after: int) -> Detections:
    """The best of boxes that lie on each other, of all classes together.

    Args:
        found: in any order.
        threshold: intersection over union, seen from above, from which the worse of two is left out.
        before: boxes that are looked at, the best ones.
        after: boxes that are kept.

    Boxes whose numbers are not finite, as the exponential of a large code, are left out.
    """
    finite = found.boxes.isfinite().all(1)
    found = Detections(*(x[finite] for x in found))
    best = found.scores.argsort(descending=True, stable=True)[:before]
    found = Detections(*(x[best] for x in found))
    keep = rotated_nms(found.boxes[:, :7], found.scores, threshold, max_boxes=after)
    return Detections(*(x[keep] for x in found))
