"""Registration of the pairwise weights with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Gradients of missing gates are empty tensors, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.plstm2d.gates import Gates
from visionssm.kernels.plstm2d.parallel import plstm2d_parallel
from visionssm.kernels.transforms import Operator, gradient_operator

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
    grads = _plstm2d_pairs_backward(grad_weights, *gates)
    grad_direct = None
    if ctx.direct_shape is not None:  # the diagonal: what a cell's source means to its own output
        grad_direct = grad_weights.diagonal(dim1=1, dim2=2).reshape(ctx.direct_shape)
    return (*(None if x is None else g for x, g in zip(gates, grads, strict=True)), grad_direct)


def _definition(*gates: Tensor | None) -> Tensor:
    """What reaches every reader of a one that a source writes: the outputs for values that are one for one source."""
    numbers = Gates(*(None if x is None else x[..., None, None, None] for x in gates))  # type: ignore[arg-type]
    scalar = {"transition_rl", "transition_du", "transition_ru", "transition_dl"}
    named = {n: x if x is None or n not in scalar else x[..., 0] for n, x in numbers._asdict().items()}
    batch, _, rows, columns = numbers.source_r.shape[:4]
    one = numbers.source_r.new_ones(batch, rows, columns, 1, 1)
    n_cells = rows * columns
    sources = torch.eye(n_cells, dtype=one.dtype, device=one.device).view(1, rows, columns, n_cells, 1)
    values = sources.expand(batch, -1, -1, -1, -1)
    out, _ = plstm2d_parallel(
        one, one, values, Gates(**named), None, max_block=1 << (max(rows, columns) - 1).bit_length()
    )
    return out.flatten(1, 2).squeeze(-1)  # (B, C readers, C sources)


_library.impl("plstm2d_pairs", _forward, "CompositeExplicitAutograd")
_library.impl("plstm2d_pairs_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::plstm2d_pairs", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::plstm2d_pairs_backward", _backward_fake, lib=_library)
plstm2d_pairs_op = Operator(_library, "plstm2d_pairs", _setup_context, _autograd, _forward)
_plstm2d_pairs_backward = gradient_operator(
    _library, "plstm2d_pairs_backward", _definition, n_gradients=1, n_inputs=_N_GATES, kernels=_backward
)
