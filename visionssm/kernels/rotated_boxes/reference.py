"""Overlap of rotated rectangles and greedy suppression, defined: a pair after the other, polygons clipped by sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Point = tuple[float, float]


def overlap_reference(a: Tensor, b: Tensor) -> Tensor:
    """Area that the footprints of boxes (…, 7) share, by Sutherland and Hodgman's clipping of polygons.

    No derivatives: it computes in Python's numbers.
    """
    a, b = torch.broadcast_tensors(a, b)
    pairs = zip(a.reshape(-1, 7).tolist(), b.reshape(-1, 7).tolist(), strict=True)
    return a.new_tensor([_shared_area(one, other) for one, other in pairs]).view(a.shape[:-1])


def nms_reference(iou: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Rows that are kept, best first: in the order of scores, those that none that is kept overlaps by more."""
    kept: list[int] = []
    for box in scores.argsort(descending=True, stable=True).tolist():
        if all(iou[other, box] <= threshold for other in kept):
            kept.append(box)
    return torch.tensor(kept, dtype=torch.long, device=scores.device)


def _shared_area(one: Sequence[float], other: Sequence[float]) -> float:
    if min(*one[3:5], *other[3:5]) <= 0:
        return 0.0
    polygon, sides = _corners(one), _corners(other)
    for start, end in zip(sides, [*sides[1:], sides[0]], strict=True):
        polygon = _clip(polygon, start, end)
    return max(0.0, sum(p[0] * q[1] - p[1] * q[0] for p, q in _around(polygon)) / 2)


def _corners(box: Sequence[float]) -> list[Point]:
    """Corners of a footprint, counter-clockwise."""
    x, y, _, dx, dy, _, heading = box
    cos, sin = math.cos(heading), math.sin(heading)
    local = [(dx / 2, dy / 2), (-dx / 2, dy / 2), (-dx / 2, -dy / 2), (dx / 2, -dy / 2)]
    return [(x + cos * p - sin * q, y + sin * p + cos * q) for p, q in local]


def _clip(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """What of a polygon is to the left of the line from start to end."""

    def side(p: Point) -> float:
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    clipped: list[Point] = []
    for p, q in _around(polygon):
        here, there = side(p), side(q)
        if here >= 0:
            clipped.append(p)
        if here * there < 0:  # the line is crossed between p and q
            t = here / (here - there)
            clipped.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
    return clipped


def _around(polygon: list[Point]) -> list[tuple[Point, Point]]:
    return list(zip(polygon, polygon[1:] + polygon[:1], strict=True))
