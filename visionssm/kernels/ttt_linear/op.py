"""Registration of TTT-Linear with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Models that are not saved are an empty tensor, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.transforms import Operator, gradient_operator, may_need_gradients
from visionssm.kernels.ttt_linear.reference import ttt_linear_reference

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor eta, Tensor token_scale, Tensor weight, Tensor bias, Tensor norm_weight,"
    " Tensor norm_bias"
)
_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(f"ttt_linear({_INPUTS}, float eps, bool save_models) -> (Tensor, Tensor)")
_library.define(
    f"ttt_linear_backward(Tensor grad_y, {_INPUTS}, Tensor models, float eps) -> ({', '.join(['Tensor'] * 9)})"
)


def ttt_linear_op(tensors: tuple[Tensor, ...], eps: float) -> Tensor:
    """y from compiled kernels; `tensors` are the nine inputs in the order of `ttt_linear`."""
    return _ttt_linear(*tensors, eps, may_need_gradients(tensors))[0]


def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    *tensors, eps, save_models = inputs
    return implementation(tensors[0], __package__).forward(*tensors, eps=eps, save_models=save_models)


def _forward_fake(*inputs: Any) -> tuple[Tensor, Tensor]:
    q, _, _, _, token_scale, *_, save_models = inputs
    models_shape = implementation(q, __package__).models_shape(q, token_scale) if save_models else (0,)
    return q.new_empty(q.shape), q.new_empty(models_shape, dtype=torch.float32)


def _backward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, models, eps = inputs
    return implementation(tensors[1], __package__).backward(*tensors, models=models, eps=eps)


def _backward_fake(*inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[1:10])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, eps, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])
    ctx.eps = eps


def _autograd(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 11
    return (*_ttt_linear_backward(grad_y, *ctx.saved_tensors, ctx.eps), None, None)


_library.impl("ttt_linear", _forward, "CompositeExplicitAutograd")
_library.impl("ttt_linear_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::ttt_linear", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::ttt_linear_backward", _backward_fake, lib=_library)
_ttt_linear = Operator(_library, "ttt_linear", _setup_context, _autograd, _forward)
_ttt_linear_backward = gradient_operator(
    _library, "ttt_linear_backward", ttt_linear_reference, n_gradients=1, n_inputs=9, kernels=_backward
)
