"""Gated linear attention, defined: plain PyTorch, any float dtype, differentiable, one step after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def gated_linear_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, reverse: bool = False
) -> Tensor:
    """y_t = S_tᵀ q_t, S_{t+1} = diag(exp(log_decay_t)) S_t + k_t v_tᵀ from zeros; `reverse`: from the last step on.

    Shapes are those of `visionssm.kernels.gated_linear_attention`; float32 inside for half precision.
    """
    compute = torch.promote_types(q.dtype, torch.float32)
    dtype = q.dtype
    q, k, v, decay = q.to(compute), k.to(compute), v.to(compute), log_decay.to(compute).exp()
    batch, steps, heads, width = v.shape
    state = v.new_zeros(batch, heads, q.shape[-1], width)
    y: list[Tensor] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        y.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
        state = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
    if not steps:
        return v.to(dtype)
    return torch.stack(y[::-1] if reverse else y, 1).to(dtype)
