"""Triton backend of the selective scan: allocates, chooses tiles and parts, launches `gpu_forward`, `gpu_backward`.

Sums over routes, over channel blocks (b, c, low-rank dt) and over the batch (parameters) are float32 atomics into
zeroed tensors: the order of additions, hence the last bits, vary from run to run. Where PyTorch is told to be
deterministic, the scan refuses to run.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.checks import check_deterministic
from visionssm.kernels.layout import with_unit_stride
from visionssm.kernels.selective_scan import gpu_backward, gpu_forward
from visionssm.kernels.selective_scan.gpu_arguments import (
    Arguments,
    Carried,
    Parts,
    Tile,
    as_kernels_read,
    ceil_div,
    launch_of,
    next_power_of_two,
    plan_of,
    tensors_of,
    zeros,
    zeros_of_each,
)
from visionssm.kernels.selective_scan.scan import Scan

FEW_STATES = 4


def forward_tile(d_state: int, rank: int = 0, itemsize: int = 2) -> Tile:
    """One warp that holds all steps of 32 channels in registers (see `gpu_steps`).

    Registers are held down so that twelve warps share a multiprocessor, all that the first stage of a published model
    has at batch 128; not where that would spill, with many ranks of float32 numbers.

    Args:
        d_state: N.
        rank: R of low-rank step sizes.
        itemsize: bytes of one of their numbers.
    """
    few = d_state <= FEW_STATES and (rank <= 32 or itemsize <= 2)
    return Tile(steps=16, channels=32, num_warps=1, maxnreg=160 if few else None)


def backward_tile(d_state: int, rank: int = 0, itemsize: int = 2) -> Tile:
    """As the forward tile, with twice as many live tiles."""
    few = d_state <= FEW_STATES and rank <= 16 and itemsize <= 2
    return Tile(steps=16, channels=32, num_warps=1, maxnreg=168 if few else None)


def saved_apart(d_state: int) -> int:
    """Steps between two states that are saved for the backward pass: a function of N alone, whatever the tiles are.

    That is K·N/steps bytes for each byte of a float32 map: 64 steps keep four routes of 16 states at one map.
    """
    return 16 if d_state <= FEW_STATES else 64


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
    blocks = ceil_div(scan.route_channels, forward_tile(scan.d_state).channels)
    programs = scan.batch * scan.n_routes * scan.n_sequences * blocks
    return parts_for(programs, scan.n_steps, scan.d_state, multiprocessors)


def states_shape(scan: Scan) -> tuple[int, ...]:
    """States saved for the backward pass, one every `saved_apart` steps inside: (B, K, S, number, N, Dk)."""
    steps = saved_apart(scan.d_state)
    between = torch.sym_max((scan.n_steps + steps - 1) // steps - 1, 0)
    return (scan.batch, scan.n_routes, scan.n_sequences, between, scan.d_state, scan.route_channels)  # type: ignore[return-value]


def forward(scan: Scan, *, merge: bool, save_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Map, final state and saved states (empty unless `save_states`); shapes as in `reference.py`."""
    check_deterministic("selective_scan")
    scan, parts = as_kernels_read(scan), _parts(scan)
    carried = carried_states(scan, parts=parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    y, final_state, states, launch = forward_launch(
        scan, merge=merge, save_states=save_states, parts=parts, carried=carried
    )
    launch.run()
    return y.to(scan.u.dtype), final_state, states


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, states: Tensor, *, merge: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of `scan.differentiable()`; None where the input is None."""
    check_deterministic("selective_scan")
    inputs = scan.differentiable()
    scan, parts = as_kernels_read(scan), _parts(scan)
    carried = carried_flows(grad_y, grad_final_state, scan, parts=parts) if parts.count > 1 else None
    if carried is not None:
        carried.run()
    grads, launch = backward_launch(grad_y, grad_final_state, scan, states, merge=merge, parts=parts, carried=carried)
    launch.run()
    results: list[Tensor | None] = []
    for (name, grad), x in zip(grads.items(), inputs, strict=True):
        if grad is None or x is None:
            results.append(None)
        else:
            results.append((grad.mT if name == "grad_a" else grad).to(x.dtype).contiguous())
    return tuple(results)


def forward_launch(
    scan: Scan,
    *,
    merge: bool,
    save_states: bool,
    parts: Parts | None = None,
    carried: Carried | None = None,
) -> tuple[Tensor, Tensor, Tensor, KernelLaunch]:
    """Float32 results that the launch fills, and the launch; on meta tensors, only to be compiled.

    With several `parts`, `carried` holds the states that enter them (see `carried_states`).
    """
    scan = as_kernels_read(scan)
    y = scan.u.new_zeros(scan.y_shape(merge), dtype=torch.float32)
    final_state = carried.leaves if carried else _new_state(scan)
    states = scan.u.new_empty(states_shape(scan) if save_states else (0,), dtype=torch.float32)
    plan = plan_of(scan, y)
    tensors = {
        **tensors_of(scan, plan),
        "carried": carried.enters if carried else None,
        "y": y,
        "final_state": None if carried else final_state,
        "states": states if save_states else None,
        "deltas": None,
    }
    tile = forward_tile(scan.d_state, scan.rank, scan.dt.itemsize)
    kernel, apart = gpu_forward.selective_scan_forward, saved_apart(scan.d_state)
    launch = launch_of(kernel, tile, tensors, plan, parts or _whole(scan), apart)
    return y, final_state, states, launch


def carried_states(scan: Scan, *, parts: Parts) -> Carried:
    """The states that enter the parts of every sequence, and the final states."""
    scan = as_kernels_read(scan)
    ends, deltas = _part_tensors(scan, parts)
    plan = plan_of(scan, scan.u)
    absent = ("c", "skip", "initial_state", "carried", "y", "final_state")
    tensors = {**tensors_of(scan, plan), **dict.fromkeys(absent), "states": ends, "deltas": deltas}
    tile = forward_tile(scan.d_state, scan.rank, scan.dt.itemsize)
    kernel, apart = gpu_forward.selective_scan_forward, saved_apart(scan.d_state)
    first = launch_of(kernel, tile, tensors, plan, parts, apart)
    return _carry_over(first, scan.initial_state, ends, deltas, scan, backwards=False)


def carried_flows(grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, *, parts: Parts) -> Carried:
    """The gradients that flow into the last states of the parts, and those that reach the initial states."""
    scan = as_kernels_read(scan)
    flows, deltas = _part_tensors(scan, parts)
    grad_y = with_unit_stride(grad_y)
    plan = plan_of(scan, grad_y)
    tensors = {"grad_y": grad_y, **tensors_of(scan, plan), "flows": flows, "deltas": deltas}
    tile = backward_tile(scan.d_state, scan.rank, scan.dt.itemsize)
    first = launch_of(gpu_backward.part_flows, tile, tensors, plan, parts, saved_apart(scan.d_state))
    return _carry_over(first, grad_final_state, flows, deltas, scan, backwards=True)


def _part_tensors(scan: Scan, parts: Parts) -> tuple[Tensor, Tensor]:
    """What each part of a sequence does to the state, to be filled: ends (rows, parts, N, Dk) and ΣΔ (rows, parts, Dk).

    A row is a batch element, a route and a sequence.
    """
    rows = scan.batch * scan.n_routes * scan.n_sequences
    ends = scan.u.new_empty((rows, parts.count, scan.d_state, scan.route_channels), dtype=torch.float32)
    return ends, ends.new_empty((rows, parts.count, scan.route_channels))


def _new_state(scan: Scan) -> Tensor:
    """A state for every sequence, (B, K, S, Dk, N), to be filled."""
    return scan.u.new_empty(scan.state_shape, dtype=torch.float32)


def _carry_over(
    before: KernelLaunch, first: Tensor | None, ends: Tensor, deltas: Tensor, scan: Scan, *, backwards: bool
) -> Carried:
    """Compose what the parts do, which the launch `before` finds out; `first` enters the first, or None for zeros."""
    enters, leaves = torch.empty_like(ends), _new_state(scan)
    channels = 32
    blocks = ceil_div(scan.route_channels, channels)
    arguments: Arguments = {
        "a": before.arguments["a"],
        "first": None if first is None else first.contiguous(),
        "ends": ends,
        "deltas": deltas,
        "carried": enters,
        "last": leaves,
        "n_sequences": scan.n_sequences,
        "n_parts": ends.shape[1],
    }
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
    launch = KernelLaunch(gpu_forward.carry_over_parts, grid, arguments, constants, num_warps=1)
    return Carried(enters, leaves, (before, launch))


def backward_launch(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    scan: Scan,
    states: Tensor,
    *,
    merge: bool,
    parts: Parts | None = None,
    carried: Carried | None = None,
) -> tuple[dict[str, Tensor | None], KernelLaunch]:
    """Float32 gradients that the launch fills, in the order of `Scan.differentiable` (a's as (K, N, Dk)); the launch.

    With several `parts`, `carried` holds the gradients that flow into their last states (see `carried_flows`).
    """
    del merge  # grad_y's shape says it
    scan = as_kernels_read(scan)
    grad_y = with_unit_stride(grad_y)
    plan = plan_of(scan, grad_y)
    initial = scan.initial_state
    alone = not plan.follows
    weight, of_a, skip, bias = zeros_of_each(scan.dt_weight, scan.a.mT, scan.skip, scan.dt_bias)
    grads: dict[str, Tensor | None] = {
        "grad_u": zeros(scan.u),
        "grad_dt": zeros(scan.dt) if alone else None,
        "grad_weight": weight,
        "grad_a": of_a,
        "grad_b": zeros(scan.b) if alone else None,
        "grad_c": zeros(scan.c) if alone else None,
        "grad_skip": skip,
        "grad_bias": bias,
        "grad_initial": None if initial is None else carried.leaves if carried else zeros(initial),
    }
    results = {**grads, "grad_initial": None if carried else grads["grad_initial"]}
    if plan.follows:
        widths = [scan.rank, scan.d_state, scan.d_state]
        projected = scan.u.new_zeros((*scan.dt.shape[:-1], sum(widths)), dtype=torch.float32)
        grads |= zip(("grad_dt", "grad_b", "grad_c"), projected.split(widths, -1), strict=True)
        results["grad_dt"] = projected
    tile, parts = backward_tile(scan.d_state, scan.rank, scan.dt.itemsize), parts or _whole(scan)
    apart = saved_apart(scan.d_state)
    tensors = {
        "grad_y": grad_y,
        "grad_final_state": None if grad_final_state is None else grad_final_state.contiguous(),
        **tensors_of(scan, plan),
        "states": states,
        "carried": carried.enters if carried else None,
        "between": None,
        **results,
    }
    launch = launch_of(gpu_backward.selective_scan_backward, tile, tensors, plan, parts, apart)
    chunks = apart // tile.steps
    if chunks > 1:
        between = scan.u.new_empty((*launch.grid, chunks - 1, scan.d_state, tile.channels), dtype=torch.float32)
        launch = replace(launch, arguments={**launch.arguments, "between": between})
    return grads, launch


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
    states_in = carried_states(scan, parts=parts) if parts.count > 1 else None
    y, final_state, states, forward = forward_launch(scan, merge=True, save_states=True, parts=parts, carried=states_in)
    grad_y, grad_final = y.to(dtype), final_state if initial_state else None
    flows_in = carried_flows(grad_y, grad_final, scan, parts=parts) if parts.count > 1 else None
    _, backward = backward_launch(grad_y, grad_final, scan, states, merge=True, parts=parts, carried=flows_in)
    found = {"forward": forward, "backward": backward}
    if states_in and flows_in:
        found |= dict(zip(("part ends", "states carried"), states_in.launches, strict=True))
        found |= dict(zip(("part flows", "flows carried"), flows_in.launches, strict=True))
    return found
