"""Registration of the pairwise weights with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Gradients of missing gates are empty tensors, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation

_GATES = (
    "Tensor source_r, Tensor source_d, Tensor transition_rl, Tensor transition_du, Tensor mark_l, Tensor mark_u,"
    " Tensor? transition_ru, Tensor? transition_dl"
)
_N_GATES = 8
_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(f"plstm2d_pairs({_GATES}, Tensor? direct) -> Tensor")
_library.define(
    f"plstm2d_pairs_backward(Tensor grad_weights, {_GATES})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _forward(*inputs: Tensor | None) -> Tensor:
    *gates, direct = inputs
    assert gates[0] is not None
    weights: Tensor = implementation(gates[0], __package__).forward(tuple(gates), direct)
    return weights


def _forward_fake(*inputs: Tensor | None) -> Tensor:
    source = inputs[0]
    assert source is not None
    n_cells = source.shape[2] * source.shape[3]
    return source.new_empty(source.shape[0], n_cells, n_cells)


def _backward(grad_weights: Tensor, *gates: Tensor | None) -> tuple[Tensor, ...]:
    grads = implementation(grad_weights, __package__).backward(grad_weights, gates)
    return tuple(grad_weights.new_empty(0) if g is None else g for g in grads)


def _backward_fake(grad_weights: Tensor, *gates: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(grad_weights.new_empty(0) if x is None else x.new_empty(x.shape) for x in gates)


def _setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    *gates, direct = inputs
    ctx.save_for_backward(*gates)
    ctx.direct_shape = None if direct is None else direct.shape


def _autograd(ctx: Any, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
    gates = ctx.saved_tensors
    grads = torch.ops.visionssm.plstm2d_pairs_backward(grad_weights, *gates)
    grad_direct = None
    if ctx.direct_shape is not None:  # the diagonal: what a cell's source means to its own output
        grad_direct = grad_weights.diagonal(dim1=1, dim2=2).reshape(ctx.direct_shape)
    return (*(None if x is None else g for x, g in zip(gates, grads, strict=True)), grad_direct)


_library.impl("plstm2d_pairs", _forward, "CompositeExplicitAutograd")
_library.impl("plstm2d_pairs_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::plstm2d_pairs", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::plstm2d_pairs_backward", _backward_fake, lib=_library)
torch.library.register_autograd("visionssm::plstm2d_pairs", _autograd, setup_context=_setup_context, lib=_library)
