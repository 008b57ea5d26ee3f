"""The definition, in PyTorch's operators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def instance_norm_leaky_reference(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, slope: float, eps: float
) -> Tensor:
    """y; shapes are those of `visionssm.kernels.instance_norm.instance_norm_leaky`."""
    y = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    return F.leaky_relu(y if added is None else y + added, slope)
