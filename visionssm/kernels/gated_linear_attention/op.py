"""Registration of gated linear attention with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
States that are not saved are an empty tensor, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.gated_linear_attention.chunks import gated_linear_attention_in_chunks
from visionssm.kernels.transforms import Operator, gradient_operator, may_need_gradients

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(
    "gated_linear_attention(Tensor q, Tensor k, Tensor v, Tensor log_decay, bool reverse, bool save_states)"
    " -> (Tensor, Tensor)"
)
_library.define(
    "gated_linear_attention_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor states,"
    " bool reverse) -> (Tensor, Tensor, Tensor, Tensor)"
)


def gated_linear_attention_op(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, reverse: bool) -> Tensor:
    """y from compiled kernels."""
    tensors = (q, k, v, log_decay)
    return _attention(*tensors, reverse, may_need_gradients(tensors))[0]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, reverse: bool, save_states: bool
) -> tuple[Tensor, Tensor]:
    return implementation(q, __package__).forward(q, k, v, log_decay, reverse=reverse, save_states=save_states)


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, reverse: bool, save_states: bool
) -> tuple[Tensor, Tensor]:
    states_shape = implementation(q, __package__).states_shape(q, v) if save_states else (0,)
    return q.new_empty(v.shape), q.new_empty(states_shape, dtype=torch.float32)


def _backward(
    grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, states: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    return implementation(q, __package__).backward(grad_y, q, k, v, log_decay, states, reverse=reverse)


def _backward_fake(
    grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, states: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, log_decay))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)
    ctx.reverse = reverse


def _autograd(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 6
    return (*_attention_backward(grad_y, *ctx.saved_tensors, ctx.reverse), None, None)


def _definition(*inputs: Any) -> Tensor:
    *tensors, reverse = inputs
    return gated_linear_attention_in_chunks(*tensors, reverse=reverse)


_library.impl("gated_linear_attention", _forward, "CompositeExplicitAutograd")
_library.impl("gated_linear_attention_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::gated_linear_attention", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::gated_linear_attention_backward", _backward_fake, lib=_library)
_attention = Operator(_library, "gated_linear_attention", _setup_context, _autograd, _forward)
_attention_backward = gradient_operator(
    _library, "gated_linear_attention_backward", _definition, n_gradients=1, n_inputs=4, kernels=_backward
)
