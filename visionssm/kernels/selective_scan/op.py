"""Registration of the compiled selective scan with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Absent optional results are empty tensors, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.backend import implementation
from visionssm.kernels.selective_scan.reference import selective_scan_reference
from visionssm.kernels.selective_scan.scan import Scan
from visionssm.kernels.transforms import Operator, gradient_operator, may_need_gradients

_SCAN = (
    "Tensor u, Tensor dt, Tensor? dt_weight, Tensor a, Tensor b, Tensor c, Tensor? skip, Tensor? dt_bias, Tensor order,"
    " Tensor? initial_state"
)
_N_TENSORS = len(Scan._fields)
_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(f"selective_scan({_SCAN}, bool merge, bool save_states) -> (Tensor, Tensor, Tensor)")
_library.define(
    f"selective_scan_backward(Tensor grad_y, Tensor? grad_final_state, {_SCAN}, Tensor states, bool merge)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def selective_scan_op(scan: Scan, merge: bool) -> tuple[Tensor, Tensor]:
    """The map and the final state from compiled kernels."""
    y, state, _ = _selective_scan(*scan, merge, may_need_gradients(scan))
    return y, state


def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, merge, save_states = inputs
    scan = Scan(*tensors)
    results: tuple[Tensor, Tensor, Tensor] = implementation(scan.u, __package__).forward(
        scan, merge=merge, save_states=save_states
    )
    return results


def _forward_fake(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, merge, save_states = inputs
    scan = Scan(*tensors)
    u = scan.u
    states_shape = implementation(u, __package__).states_shape(scan) if save_states else (0,)
    return (
        u.new_empty(scan.y_shape(merge)),
        u.new_empty(scan.state_shape, dtype=torch.float32),
        u.new_empty(states_shape, dtype=torch.float32),
    )


def _backward(grad_y: Tensor, grad_final_state: Tensor | None, *inputs: Any) -> tuple[Tensor, ...]:
    *tensors, states, merge = inputs
    scan = Scan(*tensors)
    module = implementation(scan.u, __package__)
    if states.shape != module.states_shape(scan):
        raise RuntimeError(
            f"the scan saved states of shape {tuple(states.shape)} and {module.__name__} starts from"
            f" {tuple(module.states_shape(scan))}: run forward and backward pass on the same backend"
        )
    grads = module.backward(grad_y, grad_final_state, scan, states, merge=merge)
    return tuple([scan.u.new_empty(0) if g is None else g for g in grads])


def _backward_without_gaps(*inputs: Any) -> tuple[Tensor, ...]:
    """`_backward` as compilers are told that it is."""
    return tuple(g.contiguous() for g in _backward(*inputs))


def _backward_fake(grad_y: Tensor, grad_final_state: Tensor | None, *inputs: Any) -> tuple[Tensor, ...]:
    scan = Scan(*inputs[:_N_TENSORS])
    return tuple(scan.u.new_empty(0) if x is None else x.new_empty(x.shape) for x in scan.differentiable())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, merge, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.merge = merge


def _autograd(
    ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    scan = Scan(*tensors)
    if grad_y is None:  # only the final state was used
        grad_y = scan.u.new_zeros(scan.y_shape(ctx.merge))
    found = _selective_scan_backward(grad_y, grad_final_state, *scan, states, ctx.merge)
    *given, grad_initial = (None if x is None else g for x, g in zip(scan.differentiable(), found, strict=True))
    return (*given, None, grad_initial, None, None)


def _definition(*inputs: Any) -> tuple[Tensor, Tensor]:
    *tensors, merge = inputs
    return selective_scan_reference(Scan(*tensors), merge)


_library.impl("selective_scan", _forward, "CompositeExplicitAutograd")
_library.impl("selective_scan_backward", _backward_without_gaps, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::selective_scan", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::selective_scan_backward", _backward_fake, lib=_library)
_selective_scan = Operator(_library, "selective_scan", _setup_context, _autograd, _forward)
_selective_scan_backward = gradient_operator(
    _library, "selective_scan_backward", _definition, n_gradients=2, n_inputs=_N_TENSORS, kernels=_backward
)
