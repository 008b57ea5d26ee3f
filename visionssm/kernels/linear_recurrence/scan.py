"""The linear recurrence in fused steps or in logarithmic depth, with a backward pass that is a recurrence too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FEW_STEPS = 4
WIDE_STEP_CPU = 1024
"""Numbers a step from which fused steps one after the other beat the scan in logarithmic depth on a CPU.

A step is then limited by memory, of which the scan touches three times as much; below, the cost of calling an operator
dominates, and the scan makes some 6·log₂ T calls instead of T. On one core with T = 1024 the scan takes a tenth of the
time at 64 numbers a step and half of it at 256, but 1.4 to 3 times as long from 1024 on.
"""
WIDE_STEP_GPU = 1 << 20
"""The same for a GPU, where a call costs as much as moving some megabytes."""


def linear_recurrence_scan(a: Tensor, b: Tensor, state: Tensor | None) -> Tensor:
    """`linear_recurrence_reference` with the same arguments, in little memory and time."""
    return _Recurrence.apply(a, b, state)


class _Recurrence(torch.autograd.Function):
    """h_t = a_t h_{t−1} + b_t.

    With g_t, the derivative of the loss with respect to h_t through all later steps,
    g_t = ∂L/∂h_t + conj(a_{t+1}) g_{t+1}: the same recurrence against time. Then ∂L/∂b_t = g_t,
    ∂L/∂a_t = g_t conj(h_{t−1}) and ∂L/∂h_{−1} = conj(a_0) g_0, differentiable operations, so second derivatives work.
    """

    @staticmethod
    def forward(a: Tensor, b: Tensor, state: Tensor | None) -> Tensor:
        out = torch.empty(b.shape, dtype=b.dtype, device=b.device)
        _fill(a, b, None if state is None else torch.addcmul(b[0], a[0], state), out)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        a, _, state = inputs
        ctx.save_for_backward(a, state, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        a, state, h = ctx.saved_tensors
        varies = a.shape[0] > 1
        factor = a.conj().resolve_conj()
        later = factor.roll(-1, 0) if varies else factor  # a_{t+1}; the one that is rolled in meets the zero state
        g = linear_recurrence_scan(later.flip(0), grad.flip(0), None).flip(0)
        grad_a = _gradient_of_factors(g, h, state, varies).sum_to_size(a.shape) if ctx.needs_input_grad[0] else None
        grad_state = factor[0] * g[0] if ctx.needs_input_grad[2] else None
        return grad_a, g, grad_state


def _gradient_of_factors(g: Tensor, h: Tensor, state: Tensor | None, varies: bool) -> Tensor:
    """g_t conj(h_{t−1}), of every step or summed over them."""
    first = torch.zeros_like(g[:1]) if state is None else (g[0] * state.conj()).unsqueeze(0)
    if varies:
        return torch.cat([first, g[1:] * h[:-1].conj()])
    return first + (g[1:] * h[:-1].conj()).sum(0, keepdim=True)


def _fill(a: Tensor, b: Tensor, first: Tensor | None, out: Tensor) -> None:
    """Write the states into `out`; `first` is the first of them where an initial state makes it differ from b_0."""
    wide = WIDE_STEP_GPU if b.device.type == "cuda" else WIDE_STEP_CPU
    out[0].copy_(b[0] if first is None else first)
    if b.shape[0] <= FEW_STEPS or b[0].numel() >= wide:
        for t in range(1, b.shape[0]):
            _multiply_add(b[t], a[t if a.shape[0] > 1 else 0], out[t - 1], out[t])
    else:
        _fill_by_pairs(a, b, first, out)


def _fill_by_pairs(a: Tensor, b: Tensor, first: Tensor | None, out: Tensor) -> None:
    """Steps 2k and 2k + 1 are one step of a recurrence of half the length, which gives the odd states (Blelloch 1990).

    The even states follow from the odd ones before them. Depth 2·log₂ T, about twice the work of T single steps.
    """
    end = b.shape[0] // 2 * 2
    constant = a.shape[0] == 1
    even, odd = (a, a) if constant else (a[0:end:2], a[1:end:2])
    combined = torch.addcmul(b[1:end:2], odd, b[0:end:2])
    second = None if first is None else torch.addcmul(b[1], odd[0], first)
    odd_states = torch.empty_like(combined)
    _fill(odd * even, combined, second, odd_states)
    out[1:end:2].copy_(odd_states)
    later = b[2::2]
    _multiply_add(later, a if constant else a[2::2], odd_states[: later.shape[0]], out[2::2])


def _multiply_add(b: Tensor, a: Tensor, h: Tensor, out: Tensor) -> None:
    if torch.compiler.is_compiling():  # which takes no strided `out=`, and fuses this by itself
        out.copy_(b + a * h)
    else:
        torch.addcmul(b, a, h, out=out)
