"""The instance norm with leaky ReLU on CPUs: statistics, addresses and threads for the passes of `cpu_kernels`."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.instance_norm.cpu_kernels import (
    BLOCK,
    block_moments,
    norm_backward,
    norm_backward_sums,
    norm_forward,
)
from visionssm.kernels.instance_norm.reference import instance_norm_leaky_reference
from visionssm.kernels.layout import addresses, packed
from visionssm.kernels.transforms import gradients


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, slope: float, eps: float, overwrite: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, C) of x and `added` (B, T, C), and the mean and 1/√(variance + eps) of every channel, (B, C)."""
    x, weight, bias, added = map(packed, (x, weight, bias, added))
    mean, rate = _moments(x, eps)
    y = x if overwrite else torch.empty_like(x)
    scale = rate * weight
    threads.run_kernel(
        norm_forward,
        _tasks(x),
        **_sizes(x),
        **addresses(x=x, mean=mean, scale=scale, bias=bias, added=added, slope=_number(slope), y=y),
    )
    return y, mean, rate


def backward(
    gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor | None, mean: Tensor, rate: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and, where `y` is given, of what was added.

    They are added up in an order that does not depend on the threads.

    Args:
        gy: (B, T, C), of the result.
        x, weight, bias, slope: as in `forward`.
        y: the result, of which the signs are needed where something was added; otherwise None.
        mean, rate: what `forward` gave.
    """
    gy, weight, bias = map(packed, (gy, weight, bias))
    gadded = None if y is None else torch.empty_like(x)
    sums = x.new_empty(x.shape[0], _blocks(x), 2, x.shape[2])
    scale, of_sign = rate * weight, _number(slope)
    shared = {**_sizes(x), **addresses(x=x, mean=mean, scale=scale, bias=bias, slope=of_sign)}
    threads.run_kernel(norm_backward_sums, _tasks(x), **shared, **addresses(gy=gy, y=y, gadded=gadded, sums=sums))
    even, slanted = sums.sum(1, dtype=torch.float64).unbind(1)  # (B, C): of the gradient, and times x − mean
    level = (even / x.shape[1]).float()
    slant = (slanted * rate.double().square() / x.shape[1]).float()
    gx = torch.empty_like(x)
    threads.run_kernel(
        norm_backward,
        _tasks(x),
        **shared,
        **addresses(gy=gy if gadded is None else gadded, level=level, slant=slant, gx=gx),
        masked=int(gadded is not None),
    )
    return gx, (slanted * rate).sum(0).float(), even.sum(0).float(), gadded


def _moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1/√(variance + eps) over the tokens, from those of blocks (Chan, Golub & LeVeque 1983)."""
    batch, tokens, channels = x.shape
    means, squares = x.new_empty(2, batch, _blocks(x), channels).unbind(0)
    threads.run_kernel(block_moments, _tasks(x), **_sizes(x), **addresses(x=x, means=means, squares=squares))
    last = tokens - (_blocks(x) - 1) * BLOCK
    counts = torch.tensor([BLOCK] * (_blocks(x) - 1) + [last], dtype=torch.float64, device="cpu")[:, None]
    exact = means.double()
    mean = (exact * counts).sum(1, keepdim=True) / tokens
    variance = (squares.double() + counts * (exact - mean).square()).sum(1) / tokens
    return mean.squeeze(1).float(), (variance + eps).rsqrt().float()


def _blocks(x: Tensor) -> int:
    return math.ceil(x.shape[1] / BLOCK)


def _tasks(x: Tensor) -> int:
    return x.shape[0] * _blocks(x)


def _sizes(x: Tensor) -> dict[str, int]:
    return {"tokens": x.shape[1], "channels": x.shape[2]}


@functools.lru_cache(8)
def _number(value: float) -> Tensor:
    """A number where kernels can read it."""
    with torch.inference_mode(False):
        return torch.tensor([value], dtype=torch.float32, device="cpu")


class Differentiable(torch.autograd.Function):
    """The compiled passes for autograd; gradients of gradients are the definition's."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, slope: float, eps: float
    ) -> Tensor:
        y, mean, rate = forward(x, weight, bias, added, slope, eps)
        ctx.save_for_backward(x, weight, bias, added, None if added is None else y, mean, rate)
        ctx.slope, ctx.eps = slope, eps
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, added, y, mean, rate = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (*backward(gy, x, weight, bias, y, mean, rate, ctx.slope), None, None)

        def definition(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None) -> Tensor:
            other = None if added is None else added.mT
            return instance_norm_leaky_reference(x.mT, weight, bias, other, ctx.slope, ctx.eps).mT

        return (*gradients(definition, (x, weight, bias, added), (gy,)), None, None)
