"""The area that two rotated rectangles share, as an integral along the sides of one of them.

By Green's theorem, the area that a polygon A shares with the rectangle |x| ≤ w, |y| ≤ h is the integral of
clamp(x + w, 0, 2w) dy along the boundary of A where |y| ≤ h. On a side of A, x is linear in y, so the integrand is made
of three straight pieces, and the integral of trapezoids. No corner has to be found and none sorted: touching, nested
and identical rectangles are no special cases, and the area is a continuous function of the boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import reference_requested
from visionssm.kernels.rotated_boxes.reference import overlap_reference

SMALLEST = 1e-100  # what IoUs are divided by, at least: boxes without an area share none of it


def bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of the footprints of boxes (…, 7), which are broadcast."""
    shared = bev_overlap(a, b)
    union = a[..., 3:5].prod(-1) + b[..., 3:5].prod(-1) - shared
    return shared / union.clamp(min=SMALLEST)


def bev_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Areas that the footprints of boxes (…, 7) share; only those whose circles meet are compared."""
    if reference_requested():
        return overlap_reference(a, b)
    reach = a[..., 3:5].norm(dim=-1) + b[..., 3:5].norm(dim=-1)
    near = (a[..., 0] - b[..., 0]).square() + (a[..., 1] - b[..., 1]).square() < reach.square() / 4
    near &= (a[..., 3:5] > 0).all(-1) & (b[..., 3:5] > 0).all(-1)
    shape = (*near.shape, 7)
    area = shared_area(a.expand(shape)[near], b.expand(shape)[near])
    return area.new_zeros(near.shape).masked_scatter(near, area)


def shared_area(a: Tensor, b: Tensor) -> Tensor:
    """(P,) areas that the footprints of boxes a and b, (P, 7) each, share."""
    x, y = _sides(a, b)  # (P, 4, 2): start and end of each side of a, where b is upright around the origin
    half_x, half_y = b[:, 3, None] / 2, b[:, 4, None] / 2
    along = y[..., 1] - y[..., 0]

    def where(level: Tensor, axis: Tensor) -> Tensor:
        """Part of the way along each side at which a coordinate reaches a level."""
        length = axis[..., 1] - axis[..., 0]
        return (level - axis[..., 0]) / torch.where(length == 0, 1, length)

    low, high = where(-half_y, y).clamp(0, 1), where(half_y, y).clamp(0, 1)
    first, last = torch.minimum(low, high), torch.maximum(low, high)
    left, right = where(-half_x, x), where(half_x, x)
    bends = [torch.clamp(t, first, last) for t in (torch.minimum(left, right), torch.maximum(left, right))]
    places = torch.stack([first, *bends, last], -1)  # (P, 4 sides, 4)
    half_x = half_x[..., None]
    width = (torch.lerp(x[..., :1], x[..., 1:], places) + half_x).clamp(min=0).minimum(2 * half_x)
    pieces = (places[..., 1:] - places[..., :-1]) * (width[..., 1:] + width[..., :-1]) / 2
    return (pieces.sum(-1) * along).sum(-1).clamp(min=0)


def _sides(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of the ends of a's sides, counter-clockwise, in the frame of b."""
    from_b = a[:, :2] - b[:, :2]
    cos, sin = b[:, 6].cos(), b[:, 6].sin()
    centre_x = cos * from_b[:, 0] + sin * from_b[:, 1]
    centre_y = cos * from_b[:, 1] - sin * from_b[:, 0]
    turn = a[:, 6] - b[:, 6]
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    local_x = a[:, 3, None] / 2 * a.new_tensor([1, -1, -1, 1])
    local_y = a[:, 4, None] / 2 * a.new_tensor([1, 1, -1, -1])
    x = centre_x[:, None] + cos * local_x - sin * local_y
    y = centre_y[:, None] + sin * local_x + cos * local_y
    return torch.stack([x, x.roll(-1, 1)], -1), torch.stack([y, y.roll(-1, 1)], -1)
