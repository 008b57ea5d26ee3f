"""TTT-Linear, defined: plain PyTorch, any float dtype, differentiable, one mini-batch after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def ttt_linear_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> Tensor:
    """The dual form: what each token of a mini-batch reads, without a weight matrix for each of them.

    Shapes are those of `visionssm.kernels.ttt_linear`; float32 inside for half precision.
    """
    dtype = q.dtype
    compute = torch.promote_types(dtype, torch.float32)
    q, k, v, eta, token_scale, weight, bias, gamma, beta = (
        x.to(compute) for x in (q, k, v, eta, token_scale, weight, bias, norm_weight, norm_bias)
    )
    batch, steps, heads, width = q.shape
    weight = weight.expand(batch, heads, width, width)
    bias = bias[:, None].expand(batch, heads, 1, width)
    gamma, beta = gamma[:, None], beta[:, None]  # (H, 1, D)
    out: list[Tensor] = []
    for first in range(0, steps, len(token_scale)):
        last = min(first + len(token_scale), steps)
        queries, keys, values, rates = (x[:, first:last].transpose(1, 2) for x in (q, k, v, eta[..., None]))
        y, weight, bias = mini_batch(queries, keys, values, rates, token_scale, weight, bias, gamma, beta, eps)
        out.append(y.transpose(1, 2))
    return torch.cat(out, 1).to(dtype) if out else q.to(dtype)


def mini_batch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of one mini-batch (B, H, T, D), and the weight (B, H, D, D) and bias (B, H, 1, D) after it.

    q, k, v: (B, H, T, D); eta: (B, H, T, 1); gamma, beta: (H, 1, D).
    """
    rates = token_scale[: q.shape[2], None] * eta.transpose(-1, -2)  # (B, H, T, T): of token j, as token i sees it
    seen = rates.tril()
    grad = _loss_gradient(k @ weight + bias, v - k, gamma, beta, eps)
    z = q @ weight - (seen * (q @ k.transpose(-1, -2))) @ grad + (bias - seen @ grad)
    step = rates[:, :, -1, :, None] * grad  # (B, H, T, D)
    y = q + gamma * _normalised(z, eps)[0] + beta
    return y, weight - k.transpose(-1, -2) @ step, bias - step.sum(2, keepdim=True)


def _normalised(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """z without its mean and scale, and one over the scale."""
    centred = z - z.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * inverse, inverse


def _loss_gradient(z: Tensor, target: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Gradient of |gamma normalised(z) + beta − target|² / 2 with respect to z."""
    normalised, inverse = _normalised(z, eps)
    g = (gamma * normalised + beta - target) * gamma
    return (g - g.mean(-1, keepdim=True) - normalised * (g * normalised).mean(-1, keepdim=True)) * inverse
