"""State-space duality, defined: plain PyTorch, any float dtype, differentiable, in its attention-like form."""

from __future__ import annotations

import torch
from torch import Tensor


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Y = (M ∘ C Bᵀ) Δ X + d X with M_ts = exp(λ_{s+1} + … + λ_t) for s ≤ t, else 0: attention with a decay mask.

    Shapes are those of `visionssm.kernels.ssd`; `dt` are the steps Δ after bias and softplus, `log_decay` λ. The
    sums are formed a segment at a time and not as differences of running sums, which would cancel. Returns y and the
    final state (B, H, P, N); takes memory that grows with L².
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype
    x, dt, log_decay, b, c = (tensor.to(compute) for tensor in (x, dt, log_decay, b, c))
    batch, steps, heads, width = x.shape
    heads_a_group = heads // b.shape[2]
    b, c = (tensor.repeat_interleave(heads_a_group, 2) for tensor in (b, c))  # (B, L, H, N)
    if initial_state is None:
        initial_state = x.new_zeros(batch, heads, width, b.shape[-1])
    state = initial_state.to(compute)

    log_decay = log_decay.transpose(1, 2)  # (B, H, L)
    mask = segment_sums(log_decay).exp()  # (B, H, L, L)
    scores = torch.einsum("bthn,bshn->bhts", c, b) * mask
    driven = dt[..., None] * x
    since_start = log_decay.cumsum(-1).exp()  # (B, H, L): decay of the initial state at each step
    y = torch.einsum("bhts,bshp->bthp", scores, driven)
    y = y + torch.einsum("bthn,bhpn,bht->bthp", c, state, since_start)
    if d is not None:
        y = y + d.to(compute)[:, None] * x

    if steps:
        state = since_start[..., -1, None, None] * state
        state = state + torch.einsum("bhs,bshp,bshn->bhpn", mask[:, :, -1], driven, b)
    return y.to(dtype), state


def segment_sums(x: Tensor) -> Tensor:
    """(…, T) to (…, T, T): entry t, s is x_{s+1} + … + x_t, 0 for s = t and −∞ for s > t (Dao & Gu 2024, listing 1)."""
    steps = x.shape[-1]
    below = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril(-1)
    terms = x[..., :, None].expand(*x.shape, steps).masked_fill(~below, 0)  # (…, t, s): x_t where s < t
    later = torch.ones(steps, steps, dtype=torch.bool, device=x.device).triu(1)
    return terms.cumsum(-2).masked_fill(later, float("-inf"))


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
