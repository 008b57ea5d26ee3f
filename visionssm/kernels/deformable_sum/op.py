"""Registration of the deformable sum with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.deformable_sum.reference import deformable_sum_by_corners
from visionssm.kernels.transforms import Operator, gradient_operator

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define("deformable_sum(Tensor value, Tensor offset, Tensor mask, float scale) -> Tensor")
_library.define(
    "deformable_sum_backward(Tensor grad_y, Tensor value, Tensor offset, Tensor mask, float scale)"
    " -> (Tensor, Tensor, Tensor)"
)


def deformable_sum_op(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The operator on compiled kernels; shapes are those of `visionssm.kernels.deformable_sum`."""
    result: Tensor = _deformable_sum(value, offset, mask, scale)
    return result


def _forward(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    return implementation(value, __package__).forward(value, offset, mask, scale=scale)


def _forward_fake(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    return value.new_empty(value.shape)


def _backward(
    grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return implementation(value, __package__).backward(grad_y, value, offset, mask, scale=scale)


def _backward_fake(
    grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offset.new_empty(offset.shape), mask.new_empty(mask.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return (*_deformable_sum_backward(grad_y, *ctx.saved_tensors, ctx.scale), None)


_library.impl("deformable_sum", _forward, "CompositeExplicitAutograd")
_library.impl("deformable_sum_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::deformable_sum", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::deformable_sum_backward", _backward_fake, lib=_library)
_deformable_sum = Operator(_library, "deformable_sum", _setup_context, _autograd, _forward)
_deformable_sum_backward = gradient_operator(
    _library, "deformable_sum_backward", deformable_sum_by_corners, n_gradients=1, n_inputs=3, kernels=_backward
)
