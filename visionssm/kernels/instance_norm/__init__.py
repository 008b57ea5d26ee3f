"""Instance norm of a map, another map added, and leaky ReLU: the end of a residual convolution of U-Nets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.checks import check_same_device, check_shape
from visionssm.kernels.instance_norm.reference import instance_norm_leaky_reference
from visionssm.kernels.transforms import may_need_gradients

__all__ = ["instance_norm_leaky", "runs_fused"]

LANES = 16
"""Channels that the compiled passes take together (`cpu.math`)."""


def runs_fused(x: Tensor, *others: Tensor | None) -> bool:
    """Whether compiled passes take this map: see `instance_norm_leaky`."""
    return runs_compiled(x, *others) and x.shape[1] % LANES == 0 and x.numel() > 0 and math.prod(x.shape[2:]) > 1


def instance_norm_leaky(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    added: Tensor | None = None,
    *,
    slope: float,
    eps: float = 1e-5,
    overwrite: bool = False,
) -> Tensor:
    """LeakyReLU(IN(x) + added), with IN(x) = weight·(x − mean)/√(variance + eps) + bias over the pixels of a channel.

    (Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022.) On CPUs compiled passes run it in float32, with gradients,
    where the channels fill whole vectors of 16 and nobody looks on: maps are channels-last in memory then, a map that
    is not is copied, and the backward pass keeps `x` and, with `added`, the result alone. All else runs PyTorch's
    operators, in the contiguous format.

    Args:
        x: (B, C, *sides) map, any float dtype.
        weight, bias: (C,).
        added: (B, C, *sides), or None for nothing.
        slope: of negative numbers, at least 0.
        eps: what the variance is kept away from zero by.
        overwrite: whether `x` is not needed any more, so that where gradients are off the result may take its memory.

    Returns:
        (B, C, *sides).

    Raises:
        ValueError: shapes or devices disagree, the slope is negative, or a map of one pixel, which has no variance.

    Examples:
        >>> import torch
        >>> from visionssm.kernels.instance_norm import instance_norm_leaky
        >>> y = instance_norm_leaky(torch.randn(2, 16, 5, 6), torch.ones(16), torch.zeros(16), slope=1)
        >>> torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 16), atol=1e-6, rtol=0)
    """
    check_same_device({"x": x, "weight": weight, "bias": bias, "added": x if added is None else added})
    check_shape("weight", weight, ("C",), {"C": x.shape[1]})
    check_shape("bias", bias, ("C",), {"C": x.shape[1]})
    if added is not None and added.shape != x.shape:
        raise ValueError(f"added has shape {tuple(added.shape)}; expected that of x, {tuple(x.shape)}")
    if not slope >= 0:  # the backward pass takes the signs from the result
        raise ValueError(f"slope={slope} must be at least 0")
    if not runs_fused(x, weight, bias, added):
        return instance_norm_leaky_reference(x, weight, bias, added, slope, eps)
    from visionssm.kernels.instance_norm import cpu

    tokens = (_tokens(x), weight, bias, None if added is None else _tokens(added))
    if may_need_gradients(tokens):
        y: Tensor = cpu.Differentiable.apply(*tokens, slope, eps)  # type: ignore[no-untyped-call]
    else:
        # With gradients on, an operator that follows may need them and make its input again of `x`.
        y = cpu.forward(*tokens, slope, eps, overwrite and not torch.is_grad_enabled())[0]
    return y.unflatten(1, x.shape[2:]).movedim(-1, 1)


def _tokens(x: Tensor) -> Tensor:
    """(B, C, *sides) to (B, T, C) without gaps: a view of a channels-last map."""
    return x.movedim(1, -1).contiguous().flatten(1, -2)
