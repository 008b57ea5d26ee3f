"""The definition: depth-wise convolutions of several sides, one for each part of a normalised map."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Norm(NamedTuple):
    """A layer norm's parameters, of C channels."""

    weight: Tensor  # (C,)
    bias: Tensor  # (C,)
    eps: float


class Depthwise(NamedTuple):
    """A depth-wise convolution's parameters, of C channels and an odd side."""

    weight: Tensor  # (C, 1, side, side)
    bias: Tensor  # (C,)


def multi_scale_reference(
    x: Tensor, position: Depthwise | None, norm: Norm, scales: tuple[Depthwise, ...], last_norm: Norm
) -> tuple[Tensor, Tensor]:
    """y and its layer norm; shapes are those of `visionssm.kernels.multi_scale`."""
    placed = x if position is None else x + convolved(x, position)
    parts = normalised(placed, norm).chunk(len(scales), dim=-1)
    found = torch.stack([convolved(part, scale) for part, scale in zip(parts, scales, strict=True)], dim=-1)
    y = x + F.gelu(found.flatten(-2))
    return y, normalised(y, last_norm)


def normalised(x: Tensor, norm: Norm) -> Tensor:
    """(B, H, W, C) to the same shape."""
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def convolved(x: Tensor, conv: Depthwise) -> Tensor:
    """(B, H, W, C) to the same shape: zeros around the map."""
    padding = conv.weight.shape[-1] // 2
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=padding, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)
