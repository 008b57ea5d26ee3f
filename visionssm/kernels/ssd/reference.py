"""State-space duality, defined: plain PyTorch, any float dtype, differentiable, in its attention-like form."""

from __future__ import annotations

import torch
from torch import Tensor


def non_causal_ssd_reference(x: Tensor, m: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> Tensor:
    """Y = (C Bᵀ diag(m)) X + d X, a head at a time: linear attention without a mask or a normalisation.

    Shapes are those of `visionssm.kernels.non_causal_ssd`. The (B, L, L) scores are the same for all heads.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    x, m, b, c = (tensor.to(compute) for tensor in (x, m, b, c))
    scores = c @ b.transpose(1, 2)  # (B, L, L): what pixel l reads from pixel s
    heads = []
    for head in range(x.shape[2]):
        mixing = scores * m[:, None, :, head]  # C Bᵀ diag(m)
        y = mixing @ x[:, :, head]  # (B, L, P)
        heads.append(y if d is None else y + d[head].to(compute) * x[:, :, head])
    return torch.stack(heads, 2)
