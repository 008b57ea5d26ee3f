"""Scales of residual branches that start at a given number (Touvron et al. 2021, arXiv 2103.17239, equation 4)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import LayerScale
from torch import nn


def branch_scale(dim: int, value: float | None, **factory: Any) -> nn.Module:
    """timm's `LayerScale` whose weights start at a value, which those of timm before 1.0.22 do not.

    Args:
        dim: channels, the last dimension.
        value: at the start; None for no scale.
        factory: `device` and `dtype`.

    Examples:
        >>> branch_scale(2, 0.5).gamma.tolist(), branch_scale(2, None)
        ([0.5, 0.5], Identity())
    """
    if value is None:
        return nn.Identity()
    scale = LayerScale(dim, value, **factory)
    with torch.no_grad():
        scale.gamma.fill_(value)
    return scale
