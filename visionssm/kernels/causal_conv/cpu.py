"""The causal convolution with SiLU on CPUs: addresses and threads for the compiled passes of `cpu_kernels`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.causal_conv.cpu_kernels import BLOCK, conv_backward, conv_forward
from visionssm.kernels.causal_conv.reference import causal_conv_silu_reference
from visionssm.kernels.cpu import threads
from visionssm.kernels.layout import addresses, packed, placed, with_unit_stride
from visionssm.kernels.transforms import gradients


def forward(x: Tensor, weight: Tensor, bias: Tensor, backwards: bool) -> Tensor:
    """y (B, T, D) of x (B, T, D), weight (D, taps) and bias (D,), in float32; D is a multiple of `LANES`."""
    x, rows, bias = with_unit_stride(x), packed(weight.t()), packed(bias)
    y = x.new_empty(x.shape)
    threads.run_kernel(conv_forward, _tasks(x), **_inputs(x, rows, bias, backwards), **addresses(y=y))
    return y


def backward(gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, backwards: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias. They are added up in an order that does not depend on the threads."""
    x, gy, rows, bias = with_unit_stride(x), with_unit_stride(gy), packed(weight.t()), packed(bias)
    gx = x.new_empty(x.shape)
    sums = x.new_empty(_tasks(x), len(rows) + 1, x.shape[2])
    threads.run_kernel(
        conv_backward,
        _tasks(x),
        **_inputs(x, rows, bias, backwards),
        **placed("gy", gy, "batch", "token"),
        **addresses(gx=gx, sums=sums),
    )
    total = sums.sum(0)
    return gx, total[:-1].t(), total[-1]


def _tasks(x: Tensor) -> int:
    return x.shape[0] * math.ceil(x.shape[1] / BLOCK)


def _inputs(x: Tensor, rows: Tensor, bias: Tensor, backwards: bool) -> dict[str, int]:
    """What both passes read, by the names of their arguments."""
    return {
        "tokens": x.shape[1],
        "channels": x.shape[2],
        "taps": len(rows),
        "side": -1 if backwards else 1,
        **addresses(weight=rows, bias=bias),
        **placed("x", x, "batch", "token"),
    }


class Differentiable(torch.autograd.Function):
    """The compiled passes for autograd; gradients of gradients are the definition's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, backwards: bool) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight, bias)
        ctx.backwards = backwards
        return forward(x, weight, bias, backwards)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of these will be asked for

            def definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return causal_conv_silu_reference(x, weight, bias, backwards=ctx.backwards)

            return (*gradients(definition, (x, weight, bias), (gy,)), None)
        return (*backward(gy, x, weight, bias, ctx.backwards), None)
