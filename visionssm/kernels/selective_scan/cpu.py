"""The selective scan on CPUs: memory and threads for the compiled passes of `cpu_forward` and `cpu_backward`.

The kernels compute in float32, and read and write maps and vectors in half precision as they are: see `cpu.half`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.checks import check_order
from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.half import FORMATS, readable
from visionssm.kernels.cpu.math import LANES
from visionssm.kernels.layout import addresses, packed, placed, with_unit_stride
from visionssm.kernels.selective_scan.cpu_backward import scan_backward
from visionssm.kernels.selective_scan.cpu_forward import CHUNK, PANEL, scan_forward
from visionssm.kernels.selective_scan.scan import Scan

_FORWARD_TILE_FLOATS = 6 * 1024  # states, matrix and panel of a forward tile: about half of a first-level cache
_MAX_TILE = 128
_AXES = ("batch", "pixel", "route")
_MAX_SUMS_FLOATS = 1 << 20  # part of a last-level cache


def states_shape(scan: Scan) -> tuple[Any, ...]:
    """Shape of the states saved for the backward pass: one at the end of every whole chunk of each sequence."""
    chunks = scan.n_steps // CHUNK
    return (scan.batch, scan.n_routes, scan.n_sequences, chunks, scan.d_state, scan.route_channels)


def forward(scan: Scan, *, merge: bool, save_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The map, the final state and (if `save_states`, else empty) the states that `backward` starts from."""
    dtype = scan.u.dtype
    check_order(scan.order, scan.pixels)  # compiled graphs come here without it, and the kernels trust the table
    scan = _as_kernels_read(scan)
    d_state, rank, route_channels = scan.d_state, scan.rank, scan.route_channels

    new = scan.a.new_empty  # float32
    y = scan.u.new_empty(scan.y_shape(merge))
    final = new(scan.state_shape)
    states = new(states_shape(scan) if save_states else (0,))

    floats_a_channel = 2 * d_state + rank + 3 * PANEL
    limit = min(_MAX_TILE, _FORWARD_TILE_FLOATS // floats_a_channel)
    tile = _even_tile(route_channels, scan.batch, limit, torch.get_num_threads())
    tasks = scan.batch * math.ceil(route_channels / tile)
    apart = _sums_apart(scan, tasks > scan.batch, scan.pixels * tile)
    threads.run_kernel(
        scan_forward,
        tasks,
        **_inputs(scan),
        **_map("y", y, scan),
        **addresses(final=final, states=states),
        tile=tile,
        sums_apart=apart,
    )
    return y.to(dtype), final, states


def backward(
    grad_y: Tensor, grad_final_state: Tensor | None, scan: Scan, states: Tensor, *, merge: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of `scan.differentiable()`; None for an input that is None."""
    del merge  # grad_y's shape says it
    inputs = scan.differentiable()
    scan = _as_kernels_read(scan, grad_y)
    (grad_y,) = _in_format(scan.u.dtype, grad_y)
    grad_final, states = packed(grad_final_state), packed(states)
    batch, pixels, n_routes, route_channels = scan.batch, scan.pixels, scan.n_routes, scan.route_channels
    d_state, rank = scan.d_state, scan.rank

    # A task is a group of images and a range of channels. Sums over channels are kept a range, those over images a
    # group; both are added up below, in an order that does not depend on which thread ran what.
    n_threads = torch.get_num_threads()
    groups = min(batch, 2 * n_threads)
    blocks = math.ceil(route_channels / LANES)
    ranges = min(blocks, n_threads // math.gcd(groups, n_threads)) if groups else 1
    range_size = math.ceil(blocks / ranges) * LANES
    ranges = math.ceil(route_channels / range_size)
    tile = _even_tile(range_size, 1, _MAX_TILE, 1)

    new = scan.a.new_empty  # float32
    grad_u = scan.u.new_empty(scan.u.shape)
    grad_dt = new(1 if rank == 0 else ranges, batch, pixels, n_routes, rank or route_channels)
    grad_b = new(ranges, batch, pixels, n_routes, d_state)
    grad_c = torch.empty_like(grad_b)
    grad_a = new(groups, n_routes, d_state, route_channels)
    grad_weight = new(groups, n_routes, rank, route_channels)
    grad_skip = new(groups, n_routes, route_channels)
    grad_bias = torch.empty_like(grad_skip)
    grad_initial = new(scan.state_shape)
    largest_group = math.ceil(batch / groups) if groups else 0
    apart = _sums_apart(scan, ranges > 1, largest_group * pixels * tile)
    threads.run_kernel(
        scan_backward,
        groups * ranges,
        **_inputs(scan),
        **_map("gy", grad_y, scan),
        **_map("gu", grad_u, scan),
        **addresses(states=states, gfinal=grad_final),
        **addresses(gdt=grad_dt, gb=grad_b, gc=grad_c, ga=grad_a, gweight=grad_weight),
        **addresses(gskip=grad_skip, gbias=grad_bias, ginitial=grad_initial),
        n_images=batch,
        groups=groups,
        range_size=range_size,
        tile=tile,
        sums_apart=apart,
    )
    results = (
        grad_u,
        _sum_of_parts(grad_dt),
        _sum_of_parts(grad_weight),
        _sum_of_parts(grad_a).mT,
        _sum_of_parts(grad_b),
        _sum_of_parts(grad_c),
        _sum_of_parts(grad_skip),
        _sum_of_parts(grad_bias),
        grad_initial,
    )
    return tuple(None if x is None else g.to(x.dtype).contiguous() for x, g in zip(inputs, results, strict=True))


def _as_kernels_read(scan: Scan, *other_maps: Tensor) -> Scan:
    """Maps and vectors in one format each, parameters packed in float32, the table packed in int32.

    Args:
        scan: as the caller gave it.
        other_maps: that have to be in the format of the map `u` too.
    """
    maps, vectors = _format_of(scan.u, *other_maps), _format_of(scan.dt, scan.b, scan.c)
    (u,), (dt, b, c) = _in_format(maps, scan.u), _in_format(vectors, scan.dt, scan.b, scan.c)
    return Scan(
        u=u,
        dt=dt,
        dt_weight=packed(scan.dt_weight),
        a=packed(scan.a),
        b=b,
        c=c,
        skip=packed(scan.skip),
        dt_bias=packed(scan.dt_bias),
        order=scan.order.to(torch.int32).contiguous(),
        initial_state=packed(scan.initial_state),
    )


def _format_of(*maps: Tensor) -> torch.dtype:
    """The format in which the kernels read these maps: their own if it is one, else float32."""
    dtype = maps[0].dtype
    return dtype if readable(dtype) and all(x.dtype == dtype for x in maps) else torch.float32


def _in_format(dtype: torch.dtype, *maps: Tensor) -> tuple[Tensor, ...]:
    """The maps in a format, with neighbouring channels; views where that is so already."""
    return tuple(with_unit_stride(x.to(dtype)) for x in maps)


def _inputs(scan: Scan) -> dict[str, int]:
    """What both kernels read of a scan, by the names of their arguments."""
    return {
        "map_kind": FORMATS[scan.u.dtype],
        "vector_kind": FORMATS[scan.dt.dtype],
        "n_pixels": scan.pixels,
        "n_routes": scan.n_routes,
        "n_sequences": scan.n_sequences,
        "n_steps": scan.n_steps,
        "n_channels": scan.route_channels,
        "d_state": scan.d_state,
        "rank": scan.rank,
        **_map("u", scan.u, scan),
        **placed("dt", scan.dt, *_AXES),
        **placed("b", scan.b, *_AXES),
        **placed("c", scan.c, *_AXES),
        **addresses(weight=scan.dt_weight, a=scan.a, skip=scan.skip, bias=scan.dt_bias, initial=scan.initial_state),
        **addresses(order=scan.order),
    }


def _sums_apart(scan: Scan, shared: bool, floats: int) -> bool:
    """Whether a tile adds up its routes in working memory of its own, and writes the sums to the map at the end.

    It must where the map is in half precision (each addition would be rounded) and where the tile's last block of
    channels is not full. Elsewhere it is faster by an eighth: in working memory the tile's sums are neighbours, while
    in the map its rows lie far apart, between the rows that other threads write. Only sums that do not fit into the
    cache are slower that way.

    Args:
        scan: as the kernels read it.
        shared: several tasks work on one image.
        floats: that a task sums.
    """
    for_speed = shared and scan.n_routes > 1 and torch.get_num_threads() > 1 and floats <= _MAX_SUMS_FLOATS
    return for_speed or scan.u.dtype != torch.float32 or scan.route_channels % LANES != 0


def _map(name: str, x: Tensor, scan: Scan) -> dict[str, int]:
    """`placed`, of a map (B, L, D) or of a map a route (B, K, L, Dk).

    In a merged map the next route's channels are the same ones, or the next group's.
    """
    if x.ndim == 4:
        return placed(name, x, "batch", "route", "pixel")
    route = 0 if scan.route_channels == x.shape[-1] else scan.route_channels
    return {**placed(name, x, "batch", "pixel"), f"{name}_route": route}


@functools.cache
def _even_tile(channels: int, images: int, limit: int, n_threads: int) -> int:
    """Channels per tile: a multiple of 16, at most `limit`, so that images × tiles keep all threads busy to the end."""
    blocks = math.ceil(channels / LANES)
    fewest = math.ceil(blocks / max(1, limit // LANES))

    def last_thread_ends(tiles: int) -> int:
        return math.ceil(images * tiles / n_threads) * math.ceil(blocks / tiles)

    tiles = min(range(fewest, min(fewest + n_threads, blocks + 1)), key=last_thread_ends)
    return math.ceil(blocks / tiles) * LANES


def _sum_of_parts(parts: Tensor) -> Tensor:
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)
