"""Registration of the compiled selective scan with torch.library: fake tensors and autograd.

The operator is opaque to the compiler, so `torch.compile` and `torch.export` trace through it without a graph break.
Absent optional results are empty tensors, because an operator's schema has no optional outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels import backend

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define(
    "selective_scan(Tensor u, Tensor dt, Tensor? dt_weight, Tensor a, Tensor b, Tensor c, Tensor? d, Tensor? dt_bias,"
    " Tensor order, Tensor? initial_state, bool merge, bool save_states) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "selective_scan_backward(Tensor grad_y, Tensor? grad_final_state, Tensor u, Tensor dt, Tensor? dt_weight, Tensor a,"
    " Tensor b, Tensor c, Tensor? d, Tensor? dt_bias, Tensor order, Tensor? initial_state, Tensor states, bool merge)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _implementation(u: Tensor) -> Any:
    """The module that runs the operator: `gpu` or `cpu`, both with `forward`, `backward` and `states_shape`."""
    if backend.select_backend(u) == "triton" or u.device.type == "cuda":
        from visionssm.kernels.selective_scan import gpu

        return gpu
    from visionssm.kernels.selective_scan import cpu

    return cpu


def _forward(
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _implementation(u).forward(
        u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state, merge=merge, save_states=save_states
    )


def _forward_fake(
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    y_shape = (batch, pixels, channels) if merge else (batch, n_routes, pixels, route_channels)
    final_shape = (batch, n_routes, order.shape[1], route_channels, d_state)
    states_shape = _implementation(u).states_shape(u, a, order) if save_states else (0,)
    return (
        u.new_empty(y_shape),
        u.new_empty(final_shape, dtype=torch.float32),
        u.new_empty(states_shape, dtype=torch.float32),
    )


def _backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
    states: Tensor,
    merge: bool,
) -> tuple[Tensor, ...]:
    grads = _implementation(u).backward(
        grad_y, grad_final_state, u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state, states, merge=merge
    )
    return tuple(u.new_empty(0) if g is None else g for g in grads)


def _backward_fake(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
    states: Tensor,
    merge: bool,
) -> tuple[Tensor, ...]:
    inputs = (u, dt, dt_weight, a, b, c, d, dt_bias, initial_state)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, merge, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.merge = merge


def _autograd(
    ctx: Any, grad_y: Tensor | None, grad_final_state: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state = tensors
    if grad_y is None:  # only the final state was used
        shape = u.shape if ctx.merge else (u.shape[0], a.shape[0], u.shape[1], a.shape[1])
        grad_y = u.new_zeros(shape)
    grads = torch.ops.visionssm.selective_scan_backward(
        grad_y, grad_final_state, u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state, states, ctx.merge
    )
    inputs = (u, dt, dt_weight, a, b, c, d, dt_bias, initial_state)
    *given, grad_initial = (None if x is None else g for x, g in zip(inputs, grads, strict=True))
    return (*given, None, grad_initial, None, None)


_library.impl("selective_scan", _forward, "CompositeExplicitAutograd")
_library.impl("selective_scan_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::selective_scan", _forward_fake, lib=_library)
torch.library.register_fake("visionssm::selective_scan_backward", _backward_fake, lib=_library)
torch.library.register_autograd("visionssm::selective_scan", _autograd, setup_context=_setup_context, lib=_library)
