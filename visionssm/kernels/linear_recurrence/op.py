"""Registration of the linear recurrence with torch.library: fake tensors, and derivatives of any order.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Its derivative is the operator itself against time, so derivatives of derivatives run on the same kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.transforms import Operator

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define("linear_recurrence(Tensor a, Tensor b, Tensor? state, bool reverse, bool adjoint) -> Tensor")


def linear_recurrence_op(a: Tensor, b: Tensor, state: Tensor | None, reverse: bool) -> Tensor:
    """h_t = a_t h_{t−1} + b_t on compiled kernels.

    Args:
        a: (O, T, I), any of them 1 where factors are shared; float32 or complex64.
        b: (O, T, I) of a's dtype, as `state`, (O, I) or None for zeros.
        reverse: run from the last step to the first.
    """
    states: Tensor = _linear_recurrence(a, b, state, reverse, False)
    return states


def _states(a: Tensor, b: Tensor, state: Tensor | None, reverse: bool, adjoint: bool) -> Tensor:
    """With `adjoint`, the factor of a step is the conjugate of that at the step visited before it; no state then."""
    return implementation(b, __package__).states(a, b, state, reverse=reverse, adjoint=adjoint)


def _states_fake(a: Tensor, b: Tensor, state: Tensor | None, reverse: bool, adjoint: bool) -> Tensor:
    return b.new_empty(b.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, _, state, ctx.reverse, ctx.adjoint = inputs
    ctx.save_for_backward(a, state, output)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """With g_t, the derivative of the loss with respect to h_t through all later steps,

    g_t = ∂L/∂h_t + conj(a_{t+1}) g_{t+1}: the adjoint recurrence against time. Then ∂L/∂b_t = g_t,
    ∂L/∂a_t = g_t conj(h_{t−1}) and ∂L/∂h_{−1} = conj(a_0) g_0. The adjoint recurrence g_t = b_t + conj(a_{t+1}) g_{t+1}
    has the derivatives λ_t = ∂L/∂g_t + a_t λ_{t−1} and ∂L/∂a_{t+1} = conj(λ_t) g_{t+1}.
    """
    a, state, h = ctx.saved_tensors
    g = _linear_recurrence(a, grad, None, not ctx.reverse, not ctx.adjoint)
    grad_a = grad_state = None
    last = h.shape[1] - 1
    start = last if ctx.reverse else 0  # the step that is visited first
    earlier, later = (slice(1, None), slice(0, -1)) if ctx.reverse else (slice(0, -1), slice(1, None))
    if ctx.needs_input_grad[0]:
        if ctx.adjoint:  # the factor at the step visited last is not used
            products, single = h[:, earlier] * g[:, later].conj(), torch.zeros_like(g[:, :1])
            order = (single, products) if ctx.reverse else (products, single)
        else:
            products = g[:, later] * h[:, earlier].conj()
            before = torch.zeros_like(g[:, 0]) if state is None else state
            single = (g[:, start] * before.conj()).unsqueeze(1)
            order = (products, single) if ctx.reverse else (single, products)
        if a.shape[1] == 1:
            grad_a = products.sum_to_size(a.shape) + single.sum_to_size(a.shape)
        else:
            grad_a = torch.cat(order, 1).sum_to_size(a.shape)
    if ctx.needs_input_grad[2]:
        grad_state = a[:, start if a.shape[1] > 1 else 0].conj() * g[:, start]
    return grad_a, g, grad_state, None, None


_library.impl("linear_recurrence", _states, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::linear_recurrence", _states_fake, lib=_library)
_linear_recurrence = Operator(_library, "linear_recurrence", _setup_context, _autograd, _states)
