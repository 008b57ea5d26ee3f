"""Triton backend of the selective scan: allocates, chooses tiles and parts, and launches `gpu_kernels`.

Sums over routes, over channel blocks (b, c, low-rank dt) and over the batch (parameters) are float32 atomics into
zeroed tensors: the order of additions, hence the last bits, vary from run to run.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import with_unit_stride
from visionssm.kernels.selective_scan import gpu_kernels
from visionssm.kernels.selective_scan.gpu_arguments import (
    Arguments,
    Carried,
    Parts,
    Tile,
    kernel_inputs,
    launch_of,
    map_strides,
    sizes,
    zeros,
)

FEW_STATES = 4


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


WHOLE_CHUNKS = 8  # of the backward pass, the least in a part: what is done twice must stay small beside the rest
PROGRAMS_A_MULTIPROCESSOR = 8


def parts_for(programs: int, n_steps: int, d_state: int, multiprocessors: int) -> Parts:
    """As few parts as give every multiprocessor `PROGRAMS_A_MULTIPROCESSOR` of the `programs` that walk a part.

    Args:
        programs: those of an undivided launch.
        n_steps: T.
        d_state: N, which decides on the chunks.
        multiprocessors: of the GPU.
    """
    chunk = backward_tile(d_state).steps
    chunks = max(1, triton.cdiv(n_steps, chunk))
    wanted = triton.cdiv(PROGRAMS_A_MULTIPROCESSOR * multiprocessors, max(1, programs))
    count = max(1, min(wanted, chunks // WHOLE_CHUNKS))
    steps = triton.cdiv(chunks, count) * chunk
    return Parts(max(1, triton.cdiv(n_steps, steps)), steps)


def _parts(u: Tensor, a: Tensor, order: Tensor) -> Parts:
    """`parts_for` a scan on the GPU that holds it; one part where there is none."""
    n_routes, route_channels, d_state = a.shape
    multiprocessors = torch.cuda.get_device_properties(u.device).multi_processor_count if u.is_cuda else 0
    blocks = triton.cdiv(route_channels, forward_tile(d_state).channels)
    return parts_for(u.shape[0] * n_routes * order.shape[1] * blocks, order.shape[2], d_state, multiprocessors)


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
    tensors = (u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    parts = _parts(u, a, order)
    carried = carried_states(*tensors, parts=parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    y, final_state, states, launch = forward_launch(
        *tensors, merge=merge, save_states=save_states, parts=parts, carried=carried
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
    tensors = (u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    parts = _parts(u, a, order)
    carried = carried_flows(grad_y, grad_final_state, *tensors, parts=parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    grads, launch = backward_launch(
        grad_y, grad_final_state, *tensors, states, merge=merge, parts=parts, carried=carried
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
    parts: Parts | None = None,
    carried: Carried | None = None,
) -> tuple[Tensor, Tensor, Tensor, KernelLaunch]:
    """Float32 results that the launch fills, and the launch; on meta tensors, only to be compiled.

    With several `parts`, `carried` holds the states that enter them (see `carried_states`).
    """
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    y_shape = (batch, pixels, channels) if merge else (batch, n_routes, pixels, route_channels)
    y = u.new_zeros(y_shape, dtype=torch.float32)
    final_state = carried.leaves if carried else _new_state(u, a, order)
    states = u.new_empty(states_shape(u, a, order) if save_states else (0,), dtype=torch.float32)
    inputs, strides = kernel_inputs(u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    parts = parts or Parts(1, _whole(order, d_state))
    arguments: Arguments = {
        **inputs,
        "carried": carried.enters if carried else None,
        "y": y,
        "final_state": None if carried else final_state,
        "states": states if save_states else None,
        "deltas": None,
        **strides,
        **map_strides(y, a),
        **sizes(u, order, parts),
    }
    tile = forward_tile(d_state)
    only_here = {"SAVED_APART": backward_tile(d_state).steps}
    launch = launch_of(gpu_kernels.selective_scan_forward, tile, arguments, only_here, u, dt, dt_weight, a, order)
    return y, final_state, states, launch


def carried_states(
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
    parts: Parts,
) -> Carried:
    """The states that enter the parts of every sequence, and the final states."""
    del d
    ends, deltas = _part_tensors(u, a, order, parts)
    inputs, strides = kernel_inputs(u, dt, dt_weight, a, b, c, None, dt_bias, order, None)
    arguments: Arguments = {
        **inputs,
        "c": None,
        "carried": None,
        "y": None,
        "final_state": None,
        "states": ends,
        "deltas": deltas,
        **strides,
        **dict.fromkeys(("y_batch", "y_route", "y_pixel"), 0),
        **sizes(u, order, parts),
    }
    tile = forward_tile(a.shape[2])
    only_here = {"SAVED_APART": backward_tile(a.shape[2]).steps}
    first = launch_of(gpu_kernels.selective_scan_forward, tile, arguments, only_here, u, dt, dt_weight, a, order)
    return _carry_over(first, initial_state, ends, deltas, u, a, order, backwards=False)


def carried_flows(
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
    *,
    parts: Parts,
) -> Carried:
    """The gradients that flow into the last states of the parts, and those that reach the initial states."""
    del d, initial_state
    flows, deltas = _part_tensors(u, a, order, parts)
    inputs, strides = kernel_inputs(u, dt, dt_weight, a, b, c, None, dt_bias, order, None)
    grad_y = with_unit_stride(grad_y)
    needed = ("dt", "dt_weight", "a", "c", "dt_bias", "order")
    arguments: Arguments = {
        "grad_y": grad_y,
        **{name: inputs[name] for name in needed},
        "flows": flows,
        "deltas": deltas,
        **{name: stride for name, stride in strides.items() if name.startswith(("dt_", "c_"))},
        **map_strides(grad_y, a),
        **sizes(u, order, parts),
    }
    tile = backward_tile(a.shape[2])
    first = launch_of(gpu_kernels.part_flows, tile, arguments, {}, u, dt, dt_weight, a, order)
    first = replace(first, constants={k: x for k, x in first.constants.items() if k != "MAP_CHANNELS"})
    return _carry_over(first, grad_final_state, flows, deltas, u, a, order, backwards=True)


def _part_tensors(u: Tensor, a: Tensor, order: Tensor, parts: Parts) -> tuple[Tensor, Tensor]:
    """What each part of a sequence does to the state, to be filled: ends (rows, parts, N, Dk) and ΣΔ (rows, parts, Dk).

    A row is a batch element, a route and a sequence.
    """
    n_routes, route_channels, d_state = a.shape
    rows = u.shape[0] * n_routes * order.shape[1]
    ends = u.new_empty((rows, parts.count, d_state, route_channels), dtype=torch.float32)
    return ends, ends.new_empty((rows, parts.count, route_channels))


def _new_state(u: Tensor, a: Tensor, order: Tensor) -> Tensor:
    """A state for every sequence, (B, K, S, Dk, N), to be filled."""
    n_routes, route_channels, d_state = a.shape
    return u.new_empty((u.shape[0], n_routes, order.shape[1], route_channels, d_state), dtype=torch.float32)


def _carry_over(
    before: KernelLaunch,
    first: Tensor | None,
    ends: Tensor,
    deltas: Tensor,
    u: Tensor,
    a: Tensor,
    order: Tensor,
    *,
    backwards: bool,
) -> Carried:
    """Compose what the parts do, which the launch `before` finds out; `first` enters the first, or None for zeros."""
    n_routes, route_channels, d_state = a.shape
    enters, leaves = torch.empty_like(ends), _new_state(u, a, order)
    channels = 32
    blocks = triton.cdiv(route_channels, channels)
    arguments: Arguments = {
        "a": before.arguments["a"],
        "first": None if first is None else first.contiguous(),
        "ends": ends,
        "deltas": deltas,
        "carried": enters,
        "last": leaves,
        "n_sequences": order.shape[1],
        "n_parts": ends.shape[1],
    }
    constants = {
        "K": n_routes,
        "D": route_channels,
        "N": d_state,
        "CHANNELS": channels,
        "CHANNEL_BLOCKS": blocks,
        "N_PADDED": triton.next_power_of_2(d_state),
        "BACKWARDS": backwards,
    }
    grid = (ends.shape[0] * blocks,)
    launch = KernelLaunch(gpu_kernels.carry_over_parts, grid, arguments, constants, num_warps=1)
    return Carried(enters, leaves, (before, launch))


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
    parts: Parts | None = None,
    carried: Carried | None = None,
) -> tuple[dict[str, Tensor | None], KernelLaunch]:
    """Float32 gradients that the launch fills, by name in the order of the inputs (a's as (K, N, Dk)); the launch.

    With several `parts`, `carried` holds the gradients that flow into their last states (see `carried_flows`).
    """
    del merge  # grad_y's shape says it
    n_routes, route_channels, d_state = a.shape
    parts = parts or Parts(1, _whole(order, d_state))
    inputs, strides = kernel_inputs(u, dt, dt_weight, a, b, c, d, dt_bias, order, initial_state)
    grad_y = with_unit_stride(grad_y)
    grads: dict[str, Tensor | None] = {
        "grad_u": zeros(u),
        "grad_dt": zeros(dt),
        "grad_weight": zeros(dt_weight),
        "grad_a": a.new_zeros((n_routes, d_state, route_channels), dtype=torch.float32),
        "grad_b": zeros(b),
        "grad_c": zeros(c),
        "grad_skip": zeros(d),
        "grad_bias": zeros(dt_bias),
        "grad_initial": None if initial_state is None else carried.leaves if carried else zeros(initial_state),
    }
    arguments: Arguments = {
        "grad_y": grad_y,
        "grad_final_state": None if grad_final_state is None else grad_final_state.contiguous(),
        **inputs,
        "states": states,
        "carried": carried.enters if carried else None,
        **grads,
        "grad_initial": None if carried else grads["grad_initial"],
        **strides,
        **map_strides(grad_y, a),
        **sizes(u, order, parts),
    }
    tile = backward_tile(d_state)
    only_here = {"RANK_PADDED": triton.next_power_of_2(1 if dt_weight is None else max(dt_weight.shape[1], 1))}
    launch = launch_of(gpu_kernels.selective_scan_backward, tile, arguments, only_here, u, dt, dt_weight, a, order)
    return grads, launch


def _whole(order: Tensor, d_state: int) -> int:
    """Steps of a part that holds a whole sequence: whole chunks."""
    chunk = backward_tile(d_state).steps
    return max(1, triton.cdiv(order.shape[2], chunk)) * chunk


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
    multiprocessors: int = 0,
) -> dict[str, KernelLaunch]:
    """The launches of a training step at a shape, on meta tensors: to be compiled, not run.

    They are `forward` and `backward`, and where sequences are walked in parts, those that come before them.

    Args:
        pixels, channels, d_state, routes, rank: L, D, N, K and R of `LowRank` step sizes.
        batch: B.
        dtype: of the map, the low-rank steps, b and c; parameters are float32.
        initial_state: whether the scan starts from a given state.
        multiprocessors: of the GPU, which decide on the parts; 0 for undivided sequences.
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
    programs = batch * routes * triton.cdiv(channels, forward_tile(d_state).channels)
    parts = parts_for(programs, pixels, d_state, multiprocessors)
    states_in = carried_states(*tensors, parts=parts) if parts.count > 1 else None
    y, final_state, states, forward = forward_launch(
        *tensors, merge=True, save_states=True, parts=parts, carried=states_in
    )
    grad_y, grad_final = y.to(dtype), final_state if initial_state else None
    flows_in = carried_flows(grad_y, grad_final, *tensors, parts=parts) if parts.count > 1 else None
    _, backward = backward_launch(grad_y, grad_final, *tensors, states, merge=True, parts=parts, carried=flows_in)
    found = {"forward": forward, "backward": backward}
    if states_in and flows_in:
        found |= dict(zip(("part ends", "states carried"), states_in.launches, strict=True))
        found |= dict(zip(("part flows", "flows carried"), flows_in.launches, strict=True))
    return found
