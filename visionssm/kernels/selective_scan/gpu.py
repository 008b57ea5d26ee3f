"""Triton backend of the selective scan: allocates, chooses tiles and parts, launches `gpu_forward`, `gpu_backward`.

Sums over routes, over channel blocks (b, c, low-rank dt) and over the batch (parameters) are float32 atomics into
zeroed tensors: the order of additions, hence the last bits, vary from run to run. Where PyTorch is told to be
deterministic, `gpu_sums` adds in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import with_unit_stride
from visionssm.kernels.selective_scan import gpu_arguments, gpu_backward, gpu_forward, gpu_sums
from visionssm.kernels.selective_scan.gpu_arguments import (
    Arguments,
    Carried,
    Frame,
    Launch,
    Parts,
    Plan,
    ceil_div,
    frame_of,
    next_power_of_two,
    plan_of,
    tensors_of,
    whole_projection,
)
from visionssm.kernels.selective_scan.gpu_sums import GradientsApart
from visionssm.kernels.selective_scan.scan import Scan
from visionssm.kernels.tiles import Tile, saved_apart, tile_for


def forward_tile(d_state: int, rank: int = 0, itemsize: int = 2, gpu: str | None = None) -> Tile:
    """By default one warp that holds all steps of 32 channels in registers (see `gpu_steps`).

    Registers are held down so that twelve warps share a multiprocessor, all that the first stage of a published model
    has at batch 128; not where that would spill, with many ranks of float32 numbers. See `tile_for` for the arguments.
    """
    return tile_for("forward", d_state, rank, itemsize, gpu=gpu)


def backward_tile(d_state: int, rank: int = 0, itemsize: int = 2, gpu: str | None = None) -> Tile:
    """As the forward tile, with twice as many live tiles."""
    return tile_for("backward", d_state, rank, itemsize, gpu=gpu)


def _tile_of(scan: Scan, tile: Callable[..., Tile]) -> Tile:
    """The tile for a scan on the GPU that holds it."""
    gpu = _name(scan.u.device) if scan.u.is_cuda else None
    return tile(scan.d_state, scan.rank, scan.dt.itemsize, gpu)


@lru_cache(64)
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


# Least number of saved states in a part. Each part costs work that is done twice, which must stay small.
WHOLE_CHUNKS = 8
PROGRAMS_A_MULTIPROCESSOR = 8


@lru_cache(256)
def parts_for(programs: int, n_steps: int, d_state: int, multiprocessors: int) -> Parts:
    """The smallest number of parts with which every multiprocessor has `PROGRAMS_A_MULTIPROCESSOR` programs.

    Args:
        programs: those of an undivided launch.
        n_steps: T.
        d_state: N, which decides on the chunks.
        multiprocessors: of the GPU.
    """
    chunk = saved_apart(d_state)
    chunks = max(1, ceil_div(n_steps, chunk))
    wanted = ceil_div(PROGRAMS_A_MULTIPROCESSOR * multiprocessors, max(1, programs))
    count = max(1, min(wanted, chunks // WHOLE_CHUNKS))
    steps = ceil_div(chunks, count) * chunk
    return Parts(max(1, ceil_div(n_steps, steps)), steps)


@lru_cache(64)
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _parts(scan: Scan) -> Parts:
    """`parts_for` a scan on the GPU that holds it; one part where there is none."""
    on_gpu = scan.u.is_cuda
    multiprocessors = _multiprocessors(scan.u.device) if on_gpu else 0
    blocks = ceil_div(scan.route_channels, _tile_of(scan, forward_tile).channels)
    programs = scan.batch * scan.n_routes * scan.n_sequences * blocks
    return parts_for(programs, scan.n_steps, scan.d_state, multiprocessors)


def states_shape(scan: Scan) -> tuple[int, ...]:
    """States saved for the backward pass, one every `saved_apart` steps inside: (B, K, S, number, N, Dk)."""
    return gpu_arguments.states_shape(scan, saved_apart(scan.d_state))


def forward(scan: Scan, *, merge: bool, save_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Map, final state and saved states (empty unless `save_states`); shapes as in `reference.py`."""
    apart = torch.are_deterministic_algorithms_enabled()
    scan, plan = plan_of(scan, merge, saved_apart, apart=apart)
    parts = _parts_of(scan, plan)
    carried = _carried_states(scan, plan, parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    y, final_state, states, launch = _forward(scan, plan, parts, carried, save_states)
    launch.run()
    if apart:
        y = gpu_sums.to_pixels(y, scan)
        y = gpu_sums.merged(y, scan) if merge else y
    return y.to(scan.u.dtype), final_state, states


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, states: Tensor, *, merge: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of `scan.differentiable()`; None where the input is None. They may be views."""
    del merge  # grad_y's shape says it
    apart = torch.are_deterministic_algorithms_enabled()
    grad_y = with_unit_stride(grad_y)
    read, plan = plan_of(scan, grad_y, saved_apart, apart=apart)
    parts = _parts_of(read, plan)
    if grad_final_state is not None:
        grad_final_state = grad_final_state.contiguous()
    carried = _carried_flows(grad_y, grad_final_state, read, plan, parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    of_maps, grads, launch = _backward(grad_y, grad_final_state, read, plan, parts, carried, states)
    launch.run()
    if isinstance(of_maps, GradientsApart):
        grads |= of_maps.sums()
    elif plan.dtype_of_maps is not None:
        grads |= plan.maps.tensors(of_maps.to(plan.dtype_of_maps))
    return tuple(
        [
            grad if grad is None or x is None or grad.dtype is x.dtype else grad.to(x.dtype)
            for grad, x in zip(_in_order(grads, plan), scan.differentiable(), strict=True)
        ]
    )


def _empty(shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def _parts_of(scan: Scan, plan: Plan) -> Parts:
    if not plan.parts:
        plan.parts.append(_parts(scan))
    return plan.parts[0]


def _launch(
    kernel: Any,
    tile: Callable[..., Tile],
    tensors: dict[str, Tensor | None],
    scan: Scan,
    plan: Plan,
    parts: Parts,
    *forms: object,
) -> Launch:
    """A launch of a scan's kernel; `forms` say which of the tensors are None, and their dtypes where those differ."""
    key = (kernel.__name__, parts.count, parts.steps, forms)
    frame = plan.frames.get(key)
    if frame is None:
        chosen = _tile_of(scan, tile)
        frame = plan.frames[key] = frame_of(kernel, chosen, tensors, plan, parts, saved_apart(scan.d_state))
    return Launch(frame, tensors)


def _forward(
    scan: Scan, plan: Plan, parts: Parts, carried: Carried | None, save_states: bool
) -> tuple[Tensor, Tensor, Tensor, Launch]:
    """Float32 results that the launch fills, and the launch."""
    device = scan.u.device
    y = torch.zeros(plan.y_shape, dtype=torch.float32, device=device)
    final_state = carried.leaves if carried else _empty(plan.state_shape, device)
    states = _empty(plan.states_shape if save_states else (0,), device)
    tensors = tensors_of(scan, plan)
    tensors["carried"] = carried.enters if carried else None
    tensors["y"] = y
    tensors["final_state"] = None if carried else final_state
    tensors["states"] = states if save_states else None
    tensors["deltas"] = None
    kernel = gpu_forward.selective_scan_forward
    return (
        y,
        final_state,
        states,
        _launch(kernel, forward_tile, tensors, scan, plan, parts, save_states, carried is None),
    )


def _carried_states(scan: Scan, plan: Plan, parts: Parts) -> Carried:
    """The states that enter the parts of every sequence, and the final states."""
    ends, deltas = _part_tensors(scan, plan, parts)
    absent = ("c", "skip", "initial_state", "carried", "y", "final_state")
    tensors = {**tensors_of(scan, plan), **dict.fromkeys(absent), "states": ends, "deltas": deltas}
    first = _launch(gpu_forward.selective_scan_forward, forward_tile, tensors, scan, plan, parts, "ends")
    return _carry_over(first, scan.initial_state, ends, deltas, scan, plan, backwards=False)


def _carried_flows(grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, plan: Plan, parts: Parts) -> Carried:
    """The gradients that flow into the last states of the parts, and those that reach the initial states."""
    flows, deltas = _part_tensors(scan, plan, parts)
    tensors = {"grad_y": grad_y, **tensors_of(scan, plan), "flows": flows, "deltas": deltas}
    first = _launch(gpu_backward.part_flows, backward_tile, tensors, scan, plan, parts)
    return _carry_over(first, grad_final_state, flows, deltas, scan, plan, backwards=True)


def _part_tensors(scan: Scan, plan: Plan, parts: Parts) -> tuple[Tensor, Tensor]:
    """What each part of a sequence does to the state, to be filled: ends (rows, parts, N, Dk) and ΣΔ (rows, parts, Dk).

    A row is a batch element, a route and a sequence.
    """
    ends = (plan.rows, parts.count, scan.d_state, scan.route_channels)
    deltas = (plan.rows, parts.count, scan.route_channels)
    return _empty(ends, scan.u.device), _empty(deltas, scan.u.device)


def _carry_over(
    before: Launch, first: Tensor | None, ends: Tensor, deltas: Tensor, scan: Scan, plan: Plan, *, backwards: bool
) -> Carried:
    """Compose what the parts do, which the launch `before` finds out; `first` enters the first, or None for zeros."""
    enters = torch.empty_like(ends)
    leaves = _empty(plan.state_shape, ends.device)
    tensors = {"a": scan.a, "first": first, "ends": ends, "deltas": deltas, "carried": enters, "last": leaves}
    key = ("carry_over_parts", ends.shape[1], backwards, None if first is None else first.dtype)
    frame = plan.frames.get(key)
    if frame is None:
        channels = 32
        blocks = ceil_div(scan.route_channels, channels)
        arguments: Arguments = {**tensors, "n_sequences": scan.n_sequences, "n_parts": ends.shape[1]}
        constants = {
            "K": scan.n_routes,
            "D": scan.route_channels,
            "N": scan.d_state,
            "CHANNELS": channels,
            "CHANNEL_BLOCKS": blocks,
            "N_PADDED": next_power_of_two(scan.d_state),
            "BACKWARDS": backwards,
        }
        grid = (ends.shape[0] * blocks,)
        data = KernelLaunch(gpu_forward.carry_over_parts, grid, arguments, constants, num_warps=1)
        frame = plan.frames[key] = Frame.of(data)
    return Carried(enters, leaves, (before, Launch(frame, tensors)))


def _backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    scan: Scan,
    plan: Plan,
    parts: Parts,
    carried: Carried | None,
    states: Tensor,
) -> tuple[Tensor | GradientsApart, dict[str, Tensor | None], Launch]:
    """Memory of the gradients that are added to; all float32 gradients, which the launch fills, by name; the launch."""
    device = scan.u.device
    of_maps: Tensor | GradientsApart
    if plan.constants["APART"]:
        tile = _tile_of(scan, backward_tile)
        of_maps = GradientsApart(scan, plan.follows, ceil_div(scan.route_channels, tile.channels), parts.count)
        grads = dict(of_maps.tensors)
    else:
        of_maps = plan.maps.zeros(device)
        grads = {**plan.maps.tensors(of_maps), **plan.parameters.tensors(plan.parameters.zeros(device))}
    grads["grad_initial"] = None
    if scan.initial_state is not None:
        grads["grad_initial"] = carried.leaves if carried else _empty(plan.state_shape, device)
    tensors = {"grad_y": grad_y, "grad_final_state": grad_final_state, **tensors_of(scan, plan), "states": states}
    tensors |= grads
    tensors["carried"] = carried.enters if carried else None
    if carried:
        tensors["grad_initial"] = None
    tensors["between"] = _states_between(scan, plan, parts)
    forms = (None if grad_final_state is None else grad_final_state.dtype, carried is None)
    launch = _launch(gpu_backward.selective_scan_backward, backward_tile, tensors, scan, plan, parts, *forms)
    return of_maps, grads, launch


def _in_order(grads: dict[str, Tensor | None], plan: Plan) -> tuple[Tensor | None, ...]:
    """Gradients in the order of `Scan.differentiable`."""
    dt, b, c = grads["grad_dt"], grads["grad_b"], grads["grad_c"]
    if plan.follows and dt is not None:
        dt, b, c = dt.split_with_sizes(plan.widths, -1)
    of_a, initial = grads["grad_a"], grads["grad_initial"]
    return grads["grad_u"], dt, grads["grad_dt_weight"], of_a, b, c, grads["grad_skip"], grads["grad_dt_bias"], initial


def _states_between(scan: Scan, plan: Plan, parts: Parts) -> Tensor | None:
    """Room for each program's states between the chunks of a block; None if blocks have one chunk."""
    if parts.count not in plan.between:
        tile = _tile_of(scan, backward_tile)
        programs = plan.rows * parts.count * ceil_div(scan.route_channels, tile.channels)
        chunks = saved_apart(scan.d_state) // tile.steps
        shape = (programs, chunks, scan.d_state, tile.channels)
        plan.between[parts.count] = shape if chunks > 1 else None
    found = plan.between[parts.count]
    return None if found is None else _empty(found, scan.u.device)


def forward_launch(scan: Scan, *, merge: bool, save_states: bool) -> tuple[Tensor, Tensor, Tensor, KernelLaunch]:
    """Float32 results that a launch for undivided sequences fills, and the launch; of meta tensors, to be compiled."""
    scan, plan = plan_of(scan, merge, saved_apart)
    y, final_state, states, launch = _forward(scan, plan, _whole(scan), None, save_states)
    return y, final_state, states, _data(launch, scan, plan)


def backward_launch(
    grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, states: Tensor
) -> tuple[tuple[Tensor | None, ...], KernelLaunch]:
    """As `forward_launch`: float32 gradients in the order of `Scan.differentiable`, and the launch that fills them."""
    grad_y = with_unit_stride(grad_y)
    scan, plan = plan_of(scan, grad_y, saved_apart)
    _, grads, launch = _backward(grad_y, grad_final_state, scan, plan, _whole(scan), None, states)
    return _in_order(grads, plan), _data(launch, scan, plan)


def _data(launch: Launch, scan: Scan, plan: Plan) -> KernelLaunch:
    """The launch as one value, with all the memory that the kernel reads in its tensors."""
    tensors = {**launch.tensors, "a": scan.a.mT}
    if plan.follows:
        tensors["dt"] = whole_projection(scan)
    return launch._replace(tensors=tensors).data()


def _whole(scan: Scan) -> Parts:
    """One part that holds a whole sequence: whole chunks."""
    chunk = saved_apart(scan.d_state)
    return Parts(1, max(1, ceil_div(scan.n_steps, chunk)) * chunk)


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
    projected = meta(batch, pixels, routes, rank + 2 * d_state, dtype=dtype)  # as models make them
    low, b, c = projected.split([rank, d_state, d_state], -1)
    parameters = meta(routes, rank, channels), meta(routes, channels, d_state), meta(routes, channels)
    weight, a, skip = parameters
    order = meta(routes, 1, pixels, dtype=torch.int32)
    state = meta(batch, routes, 1, channels, d_state) if initial_state else None
    scan = Scan(u, low, weight, a, b, c, skip, skip, order, state)
    programs = batch * routes * ceil_div(channels, forward_tile(d_state).channels)
    parts = parts_for(programs, pixels, d_state, multiprocessors)
    divided = parts.count > 1
    apart = torch.are_deterministic_algorithms_enabled()
    scan, plan = plan_of(scan, True, saved_apart, apart=apart)
    states_in = _carried_states(scan, plan, parts) if divided else None
    _, final_state, states, forward = _forward(scan, plan, parts, states_in, True)
    grad_y, grad_final = u, final_state if initial_state else None
    _, of_gradients = plan_of(scan, grad_y, saved_apart, apart=apart)
    flows_in = _carried_flows(grad_y, grad_final, scan, of_gradients, parts) if divided else None
    *_, backward = _backward(grad_y, grad_final, scan, of_gradients, parts, flows_in, states)
    found = {"forward": forward, "backward": backward}
    if states_in and flows_in:
        found |= dict(zip(("part ends", "states carried"), states_in.launches, strict=True))
        found |= dict(zip(("part flows", "flows carried"), flows_in.launches, strict=True))
    return {name: _data(launch, scan, plan) for name, launch in found.items()}
