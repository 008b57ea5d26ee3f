"""State-space duality (SSD): state-space models whose state matrix is one number per head, as matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import select_backend
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.ssd.export import ssd_in_chunks
from visionssm.kernels.ssd.non_causal import non_causal_ssd
from visionssm.kernels.ssd.op import ssd_op
from visionssm.kernels.ssd.reference import ssd_reference

__all__ = ["non_causal_ssd", "ssd"]

CHUNK_SIZES = (16, 32, 64, 128)
MAX_STATE = 256


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor | None,
    b: Tensor,
    c: Tensor,
    *,
    log_decay: Tensor | None = None,
    d: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    chunk_size: int = 64,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal state-space duality (Mamba-2's operator): a state-space model with one decay per head and step.

    h_t = exp(λ_t)·h_{t−1} + Δ_t x_t b_tᵀ,   y_t = h_t c_t + d x_t   for every head, λ_t = Δ_t a
    (Dao & Gu 2024, arXiv 2405.21060, sections 5 and 6). With `log_decay` λ is given by itself, as in linear attention
    whose input and forget gates differ (mLSTM: Beck et al. 2024, arXiv 2405.04517).

    Args:
        x: (B, L, H, P) sequence of H heads with P channels each, any float dtype.
        dt: (B, L, H) step sizes, before bias and softplus.
        a: (H,) state matrix, one number per head, negative for a stable state; None with `log_decay`.
        b, c: (B, L, G, N) input and output vectors; G divides H, and neighbouring H/G heads share them. N up to 256.
        log_decay: (B, L, H) λ, not above 0 for a stable state, or None for Δ a.
        d: (H,) skip, or None.
        dt_bias: (H,) added to dt, or None.
        softplus: whether Δ = softplus(dt + dt_bias), or Δ = dt + dt_bias.
        initial_state: (B, H, P, N) state before the first step, or None for zeros.
        return_final_state: also return the state after the last step.
        chunk_size: 16, 32, 64 or 128 steps between the states that the backward pass starts from, and at most as many
            are one matrix product on a GPU; it decides on memory and speed and not on the result.

    Returns:
        (B, L, H, P) in x's dtype; the state is kept in float32 (float64 for float64 sequences), whatever the dtype of
        the inputs, also under autocast. With `return_final_state`, a pair with the state (B, H, P, N).

    Raises:
        ValueError: shapes, dtypes or devices disagree, `chunk_size` is none of these, or not exactly one of `a` and
            `log_decay` is given.

    Examples:
        >>> import torch, visionssm
        >>> x, dt, a = torch.randn(1, 10, 3, 8), torch.rand(1, 10, 3), -torch.rand(3)  # 10 steps, 3 heads of 8 channels
        >>> b, c = torch.randn(2, 1, 10, 1, 4)
        >>> y, state = visionssm.ssd(x, dt, a, b, c, return_final_state=True)
        >>> y.shape, state.shape
        (torch.Size([1, 10, 3, 8]), torch.Size([1, 3, 8, 4]))
    """
    _check_inputs(x, dt, a, b, c, log_decay, d, dt_bias, initial_state, chunk_size)
    backend = select_backend(x)
    with without_autocast(x.device.type):
        dt = dt.to(torch.promote_types(x.dtype, torch.float32))
        if dt_bias is not None:
            dt = dt + dt_bias
        if softplus:
            dt = F.softplus(dt)
        if log_decay is None:
            assert a is not None
            log_decay = dt * a
        log_decay = log_decay.to(dt.dtype)
        if backend == "reference":
            y, state = ssd_reference(x, dt, log_decay, b, c, d, initial_state)
        elif backend == "export":
            y, state = ssd_in_chunks(x, dt, log_decay, b, c, d, initial_state, chunk_size)
        else:
            y, state = ssd_op((x, dt, log_decay, b, c, d, initial_state), chunk_size)
    return (y, state) if return_final_state else y


def _check_inputs(
    x: Tensor,
    dt: Tensor,
    a: Tensor | None,
    b: Tensor,
    c: Tensor,
    log_decay: Tensor | None,
    d: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> None:
    names = ("x", "dt", "a", "b", "c", "log_decay", "d", "dt_bias", "initial_state")
    given = dict(zip(names, (x, dt, a, b, c, log_decay, d, dt_bias, initial_state), strict=True))
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    check_floating(tensors)
    check_same_device(tensors)
    check_shape("x", x, ("B", "L", "H", "P"))
    sizes = {"B": x.shape[0], "L": x.shape[1], "H": x.shape[2], "P": x.shape[3]}
    check_shape("b", b, ("B", "L", "G", "N"), sizes)
    heads, groups, d_state = x.shape[2], *b.shape[2:]
    if groups < 1 or heads % groups:
        raise ValueError(f"b has G={groups} groups and x has H={heads} heads; give a number of groups that divides H")
    if not 1 <= d_state <= MAX_STATE:
        raise ValueError(f"b has a state of N={d_state}; ssd takes 1 to {MAX_STATE}")
    sizes |= {"G": groups, "N": d_state}
    check_shape("c", c, ("B", "L", "G", "N"), sizes)
    check_shape("dt", dt, ("B", "L", "H"), sizes)
    if (a is None) == (log_decay is None):
        raise ValueError("a and log_decay both say how the state decays: give one of them, and None for the other")
    if log_decay is not None:
        check_shape("log_decay", log_decay, ("B", "L", "H"), sizes)
    for name in ("a", "d", "dt_bias"):
        if name in tensors:
            check_shape(name, tensors[name], ("H",), sizes)
    if initial_state is not None:
        check_shape("initial_state", initial_state, ("B", "H", "P", "N"), sizes)
    if chunk_size not in CHUNK_SIZES:
        raise ValueError(f"chunk_size={chunk_size} is none of {', '.join(map(str, CHUNK_SIZES))}")
