"""How well boxes agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-7


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU of boxes, one with one (Zheng et al. 2020, arXiv 1911.08287).

    IoU − ρ²/c² − αv: ρ is the distance of the centres, c the diagonal of the box around both, v the difference of the
    aspect ratios, and α = v / (1 − IoU + v) a weight without gradient.

    Args:
        first, second: (…, 4) left, top, right, bottom.
    Returns:
        (…), at most 1.

    Examples:
        >>> complete_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([2.0, 0.0, 4.0, 2.0])).item()
        -0.20000000298023224
    """
    left_top = torch.maximum(first[..., :2], second[..., :2])
    right_bottom = torch.minimum(first[..., 2:], second[..., 2:])
    width, height = (right_bottom - left_top).clamp(min=0).unbind(-1)
    common = width * height
    width1, height1 = (first[..., 2:] - first[..., :2]).unbind(-1)
    width2, height2 = (second[..., 2:] - second[..., :2]).unbind(-1)
    iou = common / (width1 * height1 + width2 * height2 - common + _EPS)
    around = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    v = 4 / math.pi**2 * (torch.atan(width2 / (height2 + _EPS)) - torch.atan(width1 / (height1 + _EPS))) ** 2
    alpha = (v / (1 - iou + v + _EPS)).detach()
    return iou - (apart**2).sum(-1) / ((around**2).sum(-1) + _EPS) - alpha * v
