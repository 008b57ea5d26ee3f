"""Gated linear attention: a matrix of keys and values whose rows each decay by a factor of their own (RWKV-6, GLA)."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested, select_backend
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.gated_linear_attention.chunks import gated_linear_attention_in_chunks
from visionssm.kernels.gated_linear_attention.op import gated_linear_attention_op
from visionssm.kernels.gated_linear_attention.reference import gated_linear_attention_reference

__all__ = ["gated_linear_attention"]


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """Linear attention whose memory decays by a factor per step and key channel, as in RWKV-6.

    S_{t+1} = diag(exp(log_decay_t)) S_t + k_t v_tᵀ,   y_t = (S_t + diag(bonus) k_t v_tᵀ)ᵀ q_t   for every head: each
    step reads what earlier steps wrote, without its own decay, and what it writes itself by `bonus` only
    (Peng et al. 2024, RWKV-6, arXiv 2404.05892, section 4.2; Yang et al. 2024, GLA, arXiv 2312.06635).

    For attention to both sides add the two directions, the bonus in one of them. Compiled kernels run it on CPUs; on
    GPUs, and in float64, it is matrix products in chunks of 16 steps.

    Args:
        q, k: (B, L, H, N) queries ("receptance" in RWKV) and keys of H heads, any float dtype.
        v: (B, L, H, P) values.
        log_decay: (B, L, H, N) logarithms of the decays, not above 0 for a memory that fades.
        bonus: (H, N) weight of a step's own key and value, or None for zeros.
        reverse: from the last step to the first, so that each step reads what later steps wrote.

    Returns:
        (B, L, H, P) in q's dtype; the state is kept in float32 (float64 for float64 sequences), also under autocast.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Examples:
        >>> import torch, visionssm
        >>> q, k, log_decay = torch.randn(3, 1, 10, 2, 4).unbind()  # 10 steps, 2 heads with 4 channels of keys
        >>> v, bonus = torch.randn(1, 10, 2, 8), torch.randn(2, 4)
        >>> past = visionssm.gated_linear_attention(q, k, v, -log_decay.exp(), bonus)
        >>> both = past + visionssm.gated_linear_attention(q, k, v, -log_decay.exp(), reverse=True)
        >>> both.shape
        torch.Size([1, 10, 2, 8])
    """
    _check_inputs(q, k, v, log_decay, bonus)
    with without_autocast(q.device.type):
        if reference_requested():
            y = gated_linear_attention_reference(q, k, v, log_decay, reverse=reverse)
        elif select_backend(q) == "cpu":
            y = gated_linear_attention_op(q, k, v, log_decay, reverse)
        else:
            y = gated_linear_attention_in_chunks(q, k, v, log_decay, reverse=reverse)
        if bonus is None:
            return y
        compute = torch.promote_types(q.dtype, torch.float32)
        own = (q.to(compute) * bonus.to(compute) * k.to(compute)).sum(-1, keepdim=True)
        return torch.addcmul(y.to(compute), own, v.to(compute)).to(q.dtype)


def _check_inputs(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor | None) -> None:
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay} | ({} if bonus is None else {"bonus": bonus})
    check_floating(given)
    check_same_device(given)
    check_shape("q", q, ("B", "L", "H", "N"))
    sizes = dict(zip(("B", "L", "H", "N"), q.shape, strict=True))
    check_shape("k", k, ("B", "L", "H", "N"), sizes)
    check_shape("log_decay", log_decay, ("B", "L", "H", "N"), sizes)
    check_shape("v", v, ("B", "L", "H", "P"), sizes)
    if bonus is not None:
        check_shape("bonus", bonus, ("H", "N"), sizes)
