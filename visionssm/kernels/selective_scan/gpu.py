"""Triton backend of the selective scan: allocates, lays out strides, chooses tiles and launches `gpu_kernels`.

Sums over routes, over channel blocks (b, c, low-rank dt) and over the batch (parameters) are float32 atomics into
zeroed tensors: the order of additions, hence the last bits, vary from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.selective_scan import gpu_kernels

FEW_STATES = 4
Arguments = dict[str, Tensor | int | None]


@dataclass(frozen=True)
class Tile:
    """Steps × channels that a program holds at once, and its warps."""

    steps: int
    channels: int
    num_warps: int


def forward_tile(d_state: int) -> Tile:
    """Four or eight elements a thread: the kernel is a chain of loads, so occupancy is worth more than big tiles."""
    return Tile(steps=16, channels=32, num_warps=2 if d_state <= FEW_STATES else 4)


def backward_tile(d_state: int) -> Tile:
    """Eight elements a thread, the most that ten live tiles leave registers for (found by compiling for all targets).

    One state is saved every `steps` steps, so K·N/steps bytes for each byte of a float32 map: the chunk is four times
    as long where states are many, and 64 steps keep four routes of 16 states at one map.
    """
    if d_state <= FEW_STATES:
        return Tile(steps=16, channels=32, num_warps=2)
    return Tile(steps=64, channels=16, num_warps=4)


def states_shape(u: Tensor, a: Tensor, order: Tensor) -> tuple[int, ...]:
    """States saved for the backward pass: one between every two of its chunks, (B, K, S, chunks − 1, N, Dk)."""
    n_routes, route_channels, d_state = a.shape
    steps = backward_tile(d_state).steps
    n_sequences, n_steps = order.shape[1:]
    between = torch.sym_max((n_steps + steps - 1) // steps - 1, 0)
    return (u.shape[0], n_routes, n_sequences, between, d_state, route_channels)  # type: ignore[return-value]


def forward(
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
    *,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Map, final state and saved states (empty unless `save_states`); shapes as in `reference.py`."""
    y, final_state, states, launch = forward_launch(
        u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state, merge=merge, save_states=save_states
    )
    launch.run()
    return y.to(u.dtype), final_state, states


def backward(
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
    *,
    merge: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, dt, dt_weight, a, b, c, d, dt_bias and initial_state; None where the input is None."""
    grads, launch = backward_launch(
        grad_y, grad_final_state, u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state, states, merge=merge
    )
    launch.run()
    inputs = (u, dt, dt_weight, a, b, c, d, dt_bias, initial_state)
    results: list[Tensor | None] = []
    for (name, grad), x in zip(grads.items(), inputs, strict=True):
        if grad is None or x is None:
            results.append(None)
        else:
            results.append((grad.mT.contiguous() if name == "grad_a" else grad).to(x.dtype))
    return tuple(results)


def forward_launch(
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
    *,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor, KernelLaunch]:
    """Float32 results that the launch fills, and the launch; on meta tensors, only to be compiled."""
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    y_shape = (batch, pixels, channels) if merge else (batch, n_routes, pixels, route_channels)
    y = u.new_zeros(y_shape, dtype=torch.float32)
    final_state = u.new_empty((batch, n_routes, order.shape[1], route_channels, d_state), dtype=torch.float32)
    states = u.new_empty(states_shape(u, a, order) if save_states else (0,), dtype=torch.float32)
    inputs, strides = _inputs(u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    arguments: Arguments = {
        **inputs,
        "y": y,
        "final_state": final_state,
        "states": states if save_states else None,
        **strides,
        **_map_strides(y, a),
        **_sizes(u, order),
    }
    tile = forward_tile(d_state)
    only_here = {"SAVED_APART": backward_tile(d_state).steps}
    launch = _launch(gpu_kernels.selective_scan_forward, tile, arguments, only_here, u, dt, dt_weight, a, order)
    return y, final_state, states, launch


def backward_launch(
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
    *,
    merge: bool,
) -> tuple[dict[str, Tensor | None], KernelLaunch]:
    """Float32 gradients that the launch fills, by name in the order of the inputs (a's as (K, N, Dk)); the launch."""
    del merge  # grad_y's shape says it
    n_routes, route_channels, d_state = a.shape
    inputs, strides = _inputs(u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    grad_y = _with_unit_stride(grad_y)
    grads: dict[str, Tensor | None] = {
        "grad_u": _zeros(u),
        "grad_dt": _zeros(dt),
        "grad_weight": _zeros(dt_weight),
        "grad_a": a.new_zeros((n_routes, d_state, route_channels), dtype=torch.float32),
        "grad_b": _zeros(b),
        "grad_c": _zeros(c),
        "grad_skip": _zeros(d),
        "grad_bias": _zeros(dt_bias),
        "grad_initial": _zeros(initial_state),
    }
    arguments: Arguments = {
        "grad_y": grad_y,
        "grad_final_state": None if grad_final_state is None else grad_final_state.contiguous(),
        **inputs,
        "states": states,
        **grads,
        **strides,
        **_map_strides(grad_y, a),
        **_sizes(u, order),
    }
    tile = backward_tile(d_state)
    only_here = {"RANK_PADDED": triton.next_power_of_2(1 if dt_weight is None else max(dt_weight.shape[1], 1))}
    launch = _launch(gpu_kernels.selective_scan_backward, tile, arguments, only_here, u, dt, dt_weight, a, order)
    return grads, launch


def _zeros(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.new_zeros(x.shape, dtype=torch.float32)


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _inputs(
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
) -> tuple[dict[str, Tensor | None], dict[str, int]]:
    """Inputs as the kernels read them: maps as they are, if channels are contiguous; parameters small and float32."""
    maps = {name: _with_unit_stride(x) for name, x in {"u": u, "dt": dt, "b": b, "c": c}.items()}
    strides = {"u_batch": maps["u"].stride(0), "u_pixel": maps["u"].stride(1)}
    for name in ("dt", "b", "c"):  # (B, L, K, ·)
        batch, pixel, route, _ = maps[name].stride()
        strides |= {f"{name}_batch": batch, f"{name}_route": route, f"{name}_pixel": pixel}
    inputs: dict[str, Tensor | None] = {
        "u": maps["u"],
        "dt": maps["dt"],
        "dt_weight": None if dt_weight is None else dt_weight.float().contiguous(),
        "a": a.float().mT.contiguous(),  # (K, N, Dk): channels are neighbours in memory as in the tiles
        "b": maps["b"],
        "c": maps["c"],
        "skip": None if d is None else d.float().contiguous(),
        "dt_bias": None if dt_bias is None else dt_bias.float().contiguous(),
        "order": order.to(torch.int32).contiguous(),
        "initial_state": None if initial_state is None else initial_state.contiguous(),
    }
    return inputs, strides


def _map_strides(y: Tensor, a: Tensor) -> dict[str, int]:
    """Strides of y or its gradient between batch elements, routes and pixels.

    In a merged map (B, L, D) the next route's channels are the same ones, or the next group's.
    """
    if y.ndim == 4:  # (B, K, L, Dk)
        batch, route, pixel, _ = y.stride()
        return {"y_batch": batch, "y_route": route, "y_pixel": pixel}
    route_channels = a.shape[1]
    route = 0 if route_channels == y.shape[2] else route_channels
    return {"y_batch": y.stride(0), "y_route": route, "y_pixel": y.stride(1)}


def _sizes(u: Tensor, order: Tensor) -> dict[str, int]:
    return {"n_pixels": u.shape[1], "n_sequences": order.shape[1], "n_steps": order.shape[2]}


def _launch(
    kernel: Any,
    tile: Tile,
    arguments: Arguments,
    only_here: dict[str, int],
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    order: Tensor,
) -> KernelLaunch:
    """One program for every batch element, route, sequence and channel block."""
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    blocks = triton.cdiv(route_channels, tile.channels)
    # Offsets inside one batch element are int32 if they reach all of every map and of every gradient.
    strides = (stride for name, stride in arguments.items() if name.endswith("_pixel") and isinstance(stride, int))
    widest = max(channels, n_routes * max(d_state, dt.shape[-1]), *strides)
    constants = {
        "MAP_CHANNELS": channels,
        "K": n_routes,
        "D": route_channels,
        "N": d_state,
        "RANK": 0 if dt_weight is None else dt_weight.shape[1],
        "STEPS": tile.steps,
        "CHANNELS": tile.channels,
        "CHANNEL_BLOCKS": blocks,
        "N_PADDED": triton.next_power_of_2(d_state),
        "OFFSET": tl.int32 if pixels * widest < 2**31 else tl.int64,
        **only_here,
    }
    return KernelLaunch(kernel, (batch * n_routes * order.shape[1] * blocks,), arguments, constants, tile.num_warps)


def launches(
    *,
    pixels: int,
    channels: int,
    d_state: int,
    routes: int,
    rank: int,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    initial_state: bool = False,
) -> dict[str, KernelLaunch]:
    """The forward and backward launch of a training step at a shape, on meta tensors: to be compiled, not run.

    Args:
        pixels, channels, d_state, routes, rank: L, D, N, K and R of `LowRank` step sizes.
        batch: B.
        dtype: of the map, the low-rank steps, b and c; parameters are float32.
        initial_state: whether the scan starts from a given state.
    """

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    u = meta(batch, pixels, channels, dtype=dtype)
    low, b, c = (meta(batch, pixels, routes, width, dtype=dtype) for width in (rank, d_state, d_state))
    parameters = meta(routes, rank, channels), meta(routes, channels, d_state), meta(routes, channels)
    weight, a, d = parameters
    order = meta(routes, 1, pixels, dtype=torch.int32)
    state = meta(batch, routes, 1, channels, d_state) if initial_state else None
    tensors = (u, low, weight, a, b, c, d, d, order, state)
    y, final_state, states, forward = forward_launch(*tensors, merge=True, save_states=True)
    grad_final = final_state if initial_state else None
    _, backward = backward_launch(y.to(dtype), grad_final, *tensors, states, merge=True)
    return {"forward": forward, "backward": backward}
