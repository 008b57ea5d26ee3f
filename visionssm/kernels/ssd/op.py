"""Registration of state-space duality with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Absent optional results are empty tensors, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.ssd.reference import ssd_reference
from visionssm.kernels.transforms import Operator, gradient_operator, may_need_gradients

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(
    "ssd(Tensor x, Tensor dt, Tensor log_decay, Tensor b, Tensor c, Tensor? d, Tensor? initial_state, int chunk_size,"
    " bool save_states) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "ssd_backward(Tensor grad_y, Tensor? grad_final_state, Tensor x, Tensor dt, Tensor log_decay, Tensor b, Tensor c,"
    " Tensor? d, Tensor? initial_state, Tensor states, int chunk_size)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def ssd_op(tensors: tuple[Tensor | None, ...], chunk_size: int) -> tuple[Tensor, Tensor]:
    """y and the final state from compiled kernels; `tensors` are x, dt, log_decay, b, c, d and initial_state."""
    y, state, _ = _ssd(*tensors, chunk_size, may_need_gradients(tensors))
    return y, state


def _forward(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return implementation(x, __package__).forward(
        x, dt, log_decay, b, c, d, initial_state, chunk_size=chunk_size, save_states=save_states
    )


def _forward_fake(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, heads, width = x.shape
    states_shape = implementation(x, __package__).states_shape(x, b, chunk_size) if save_states else (0,)
    return (
        x.new_empty(x.shape),
        x.new_empty((batch, heads, width, b.shape[-1]), dtype=torch.float32),
        x.new_empty(states_shape, dtype=torch.float32),
    )


def _backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    grads = implementation(x, __package__).backward(
        grad_y, grad_final_state, x, dt, log_decay, b, c, d, initial_state, states, chunk_size=chunk_size
    )
    return tuple(x.new_empty(0) if g is None else g for g in grads)


def _backward_without_gaps(*inputs: Any) -> tuple[Tensor, ...]:
    """`_backward` as compilers are told that it is."""
    return tuple(g.contiguous() for g in _backward(*inputs))


def _backward_fake(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    inputs = (x, dt, log_decay, b, c, d, initial_state)
    return tuple(x.new_empty(0) if given is None else given.new_empty(given.shape) for given in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, chunk_size, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.chunk_size = chunk_size


def _autograd(
    ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    if grad_y is None:  # only the final state was used
        grad_y = torch.zeros_like(tensors[0])
    grads = _ssd_backward(grad_y, grad_final_state, *tensors, states, ctx.chunk_size)
    return (*(None if x is None else g for x, g in zip(tensors, grads, strict=True)), None, None)


def _definition(*inputs: Any) -> tuple[Tensor, Tensor]:
    *tensors, _ = inputs  # the size of the chunks makes no difference
    return ssd_reference(*tensors)


_library.impl("ssd", _forward, "CompositeExplicitAutograd")
_library.impl("ssd_backward", _backward_without_gaps, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::ssd", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::ssd_backward", _backward_fake, lib=_library)
_ssd = Operator(_library, "ssd", _setup_context, _autograd, _forward)
_ssd_backward = gradient_operator(_library, "ssd_backward", _definition, n_gradients=2, n_inputs=7, kernels=_backward)
