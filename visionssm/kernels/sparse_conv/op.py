"""Registration of the sparse convolution with torch.library: fake tensors and autograd.

The operator is opaque to the compiler: how many pairs a table has is known only when it runs. It is linear in the
features and in the weight, and its derivatives are it itself and the gradient of its weight, of every order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.sparse_conv.pairs import convolve, weight_gradient
from visionssm.kernels.transforms import Operator

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define("sparse_conv(Tensor features, Tensor weight, Tensor neighbours) -> Tensor")
_library.define("sparse_conv_weight(Tensor features, Tensor grad, Tensor neighbours) -> Tensor")


def sparse_conv_op(features: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    """(N, Cout) from features and weight of one dtype; the table is a mirror image of itself."""
    return _sparse_conv(features, weight, neighbours)


def _mirrored(weight: Tensor) -> Tensor:
    """The weight with which gradients flow back: what row i took from j by tap k, j takes from i by tap −1 − k."""
    return weight.flip(0).transpose(1, 2)


def _forward_fake(features: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    return features.new_empty(features.shape[0], weight.shape[2])


def _weight_fake(features: Tensor, grad: Tensor, neighbours: Tensor) -> Tensor:
    return features.new_empty(neighbours.shape[1], features.shape[1], grad.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, neighbours = ctx.saved_tensors
    needs_features, needs_weight, _ = ctx.needs_input_grad
    return (
        _sparse_conv(grad, _mirrored(weight), neighbours) if needs_features else None,
        _sparse_conv_weight(features, grad, neighbours) if needs_weight else None,
        None,
    )


def _weight_backward(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    features, grad, neighbours = ctx.saved_tensors
    needs_features, needs_grad, _ = ctx.needs_input_grad
    return (
        _sparse_conv(grad, _mirrored(grad_weight), neighbours) if needs_features else None,
        _sparse_conv(features, grad_weight, neighbours) if needs_grad else None,
        None,
    )


_library.impl("sparse_conv", convolve, "CompositeExplicitAutograd")
_library.impl("sparse_conv_weight", weight_gradient, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::sparse_conv", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::sparse_conv_weight", _weight_fake, lib=_library)
_sparse_conv = Operator(_library, "sparse_conv", _setup_context, _backward)
_sparse_conv_weight = Operator(_library, "sparse_conv_weight", _setup_context, _weight_backward)
