"""Which points of the maps train on which box: task-aligned assignment (Feng et al. 2021, arXiv 2108.07755).

A point is fit for a box as far as its score of the box's class and its own box's overlap with it both are high:
s^α · u^β (equation 4). The overlap u is the complete IoU here, and the soft target of a positive point is the metric,
scaled so that the fittest point of a box gets the largest overlap of the box.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.heads.yolo.boxes import complete_iou

CANDIDATES = 10
"""Points at most that train on a box."""

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""α and β of the metric."""

_INSIDE = 1e-9
_EPS = 1e-9


class Assignment(NamedTuple):
    """What every point trains on.

    Attributes:
        box: (B, N) number of the box among those of its image, −1 for the background.
        weight: (B, N) soft target of the box's class, in [0, 1]; 0 for the background.
    """

    box: Tensor
    weight: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, truth: Tensor, labels: Tensor, valid: Tensor) -> Assignment:
    """Give every box the points that are fit for it, and every point one box at most.

    Candidates of a box are the ten points of the highest metric among those that lie inside it. A point that several
    boxes claim goes to the box that its own box overlaps most, among all boxes that it lies in. Where the metric is 0
    nothing would be learnt, and the point stays background.

    Args:
        scores: (B, N, K) in [0, 1].
        boxes: (B, N, 4) predicted left, top, right, bottom in pixels.
        points: (N, 2) x and y in pixels.
        truth: (B, M, 4) true boxes in pixels; images with fewer are filled up with anything.
        labels: (B, M) classes, from 0.
        valid: (B, M) bool, false for what fills up.

    Examples:
        >>> points = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
        >>> truth = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])
        >>> scores, boxes = torch.ones(1, 2, 1), truth.expand(1, 2, 4)
        >>> found = assign(scores, boxes, points, truth, torch.zeros(1, 1).long(), torch.ones(1, 1) > 0)
        >>> found.box.tolist(), found.weight.tolist()
        ([[0, -1]], [[1.0, 0.0]])
    """
    batch, count = boxes.shape[:2]
    taken = torch.full((batch * count,), -1, dtype=torch.int64, device=boxes.device)
    weight = boxes.new_zeros(batch * count)
    # few pairs of box and point are inside, and all but finding these is computed for these alone
    image, box, point = _inside(points, truth, valid).nonzero(as_tuple=True)
    overlap = complete_iou(truth[image, box], boxes[image, point]).clamp(min=0)
    metric = scores[image, point, labels[image, box]] ** SCORE_POWER * overlap**OVERLAP_POWER

    owner, place = image * truth.shape[1] + box, image * count + point  # numbers of boxes and points in the batch
    chosen = (_rank(metric, owner) < CANDIDATES) & (metric > 0)
    claims = torch.zeros_like(taken).index_add(0, place, chosen.long())
    chosen = torch.where(claims[place] > 1, _rank(overlap, place) == 0, chosen)

    metric, overlap, owner, place = metric[chosen], overlap[chosen], owner[chosen], place[chosen]
    none = boxes.new_zeros(truth.shape[0] * truth.shape[1])
    strongest = none.scatter_reduce(0, owner, metric, "amax")[owner]
    largest = none.scatter_reduce(0, owner, overlap, "amax")[owner]
    taken[place] = box[chosen]
    weight[place] = metric / (strongest + _EPS) * largest
    return Assignment(taken.view(batch, count), weight.view(batch, count))


def _rank(values: Tensor, group: Tensor) -> Tensor:
    """(P,) place of each value among those of its group, from 0 for the highest; equal ones in their order."""
    order = values.sort(descending=True, stable=True).indices
    order = order[group[order].sort(stable=True).indices]
    sorted_group = group[order]
    position = torch.arange(len(order), device=order.device)
    place = position - torch.searchsorted(sorted_group, sorted_group)
    return torch.empty_like(order).scatter(0, order, place)


def _inside(points: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """(B, M, N) whether a point lies strictly inside a box."""
    x, y = points.unbind(-1)
    left, top, right, bottom = truth[..., None].unbind(2)
    across = (x > left + _INSIDE) & (x < right - _INSIDE)
    along = (y > top + _INSIDE) & (y < bottom - _INSIDE)
    return across & along & valid[..., None]
