"""Sparse convolution, defined: plain PyTorch, any float dtype, differentiable, one gather and one product per tap."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_conv_reference(features: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    """y_i = Σ_k W_kᵀ x_{neighbours[i, k]}, where −1 stands for a row of zeros.

    Shapes are those of `visionssm.kernels.sparse_conv`, without the bias; float32 inside for half precision.
    """
    compute = torch.promote_types(features.dtype, torch.float32)
    weight = weight.to(compute)
    rows = torch.cat([features.to(compute), features.new_zeros(1, features.shape[1], dtype=compute)])  # row −1: zeros
    y = rows.new_zeros(features.shape[0], weight.shape[2])
    for tap in range(len(weight)):
        y = y + rows[neighbours[:, tap].long()] @ weight[tap]
    return y.to(features.dtype)
