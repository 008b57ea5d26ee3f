"""The selective scan on CPUs: memory and threads for the compiled passes of `cpu_forward` and `cpu_backward`.

The kernels compute in float32, and read and write maps and vectors in half precision as they are: see `cpu_half`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels import threads
from visionssm.kernels.checks import check_order
from visionssm.kernels.cpu_half import FORMATS, readable
from visionssm.kernels.cpu_math import LANES
from visionssm.kernels.layout import address, address_and_strides, packed, with_unit_stride
from visionssm.kernels.selective_scan.cpu_backward import backward_scratch, scan_backward
from visionssm.kernels.selective_scan.cpu_forward import CHUNK, PANEL, forward_scratch, scan_forward

_FORWARD_TILE_FLOATS = 6 * 1024  # states, matrix and panel of a forward tile: about half of a first-level cache
_BACKWARD_TILE_FLOATS = 160 * 1024  # what a backward tile keeps of a chunk: part of a second-level cache
_MAX_TILE = 128
_MAX_SUMS_FLOATS = 1 << 20  # part of a last-level cache


def states_shape(u: Tensor, a: Tensor, order: Tensor) -> tuple[Any, ...]:
    """Shape of the states saved for the backward pass: one at the end of every whole chunk of each sequence."""
    n_routes, route_channels, d_state = a.shape
    n_sequences, n_steps = order.shape[1:]
    return (u.shape[0], n_routes, n_sequences, n_steps // CHUNK, d_state, route_channels)


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
    """The map, the final state and (if `save_states`, else empty) the states that `backward` starts from.

    Shapes are those of `visionssm.kernels.selective_scan`.
    """
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    n_sequences, n_steps = order.shape[1:]
    dtype = u.dtype
    (u,), (dt, b, c) = _in_one_format(u), _in_one_format(dt, b, c)
    weight, a, d, bias, initial = (packed(x) for x in (dt_weight, a, d, dt_bias, initial_state))
    check_order(order, pixels)  # compiled graphs come here without it, and the kernels trust the table
    order = _packed_order(order)

    y_shape = (batch, pixels, channels) if merge else (batch, n_routes, pixels, route_channels)
    y = torch.empty(y_shape, dtype=u.dtype)
    final = torch.empty(batch, n_routes, n_sequences, route_channels, d_state)
    states = torch.empty(states_shape(u, a, order) if save_states else (0,))

    rank = 0 if weight is None else weight.shape[1]
    floats_a_channel = 2 * d_state + rank + 3 * PANEL
    limit = min(_MAX_TILE, _FORWARD_TILE_FLOATS // floats_a_channel)
    tile = _even_tile(route_channels, batch, limit, torch.get_num_threads())
    tasks = batch * math.ceil(route_channels / tile)
    apart = _sums_apart(u, a, tasks > batch, pixels * tile)
    threads.run_kernel(
        scan_forward,
        tasks,
        forward_scratch(tile, d_state, rank, pixels if apart else 0),
        (
            *(tile, FORMATS[u.dtype], FORMATS[dt.dtype], apart),
            *(pixels, n_routes, n_sequences, n_steps, route_channels, d_state, rank, order.data_ptr()),
            *_map_strides(u, route_channels, n_routes),
            *address_and_strides(dt),
            *address_and_strides(b),
            *address_and_strides(c),
            *_map_strides(y, route_channels, n_routes),
            *(address(x) for x in (weight, a, d, bias, initial)),
            final.data_ptr(),
            states.data_ptr() if states.numel() else 0,
        ),
    )
    return y.to(dtype), final, states


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
    """Gradients of u, dt, dt_weight, a, b, c, d, dt_bias and initial_state; None for an input that is None."""
    inputs = (u, dt, dt_weight, a, b, c, d, dt_bias, initial_state)
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    n_sequences, n_steps = order.shape[1:]
    (u, grad_y), (dt, b, c) = _in_one_format(u, grad_y), _in_one_format(dt, b, c)
    weight, a, d, bias, initial, grad_final, states = (
        packed(x) for x in (dt_weight, a, d, dt_bias, initial_state, grad_final_state, states)
    )
    order = _packed_order(order)
    rank = 0 if weight is None else weight.shape[1]

    # A task is a group of images and a range of channels. Sums over channels are kept a range, those over images a
    # group; both are added up below, in an order that does not depend on which thread ran what.
    n_threads = torch.get_num_threads()
    groups = min(batch, 2 * n_threads)
    blocks = math.ceil(route_channels / LANES)
    ranges = min(blocks, n_threads // math.gcd(groups, n_threads)) if groups else 1
    range_size = math.ceil(blocks / ranges) * LANES
    ranges = math.ceil(route_channels / range_size)
    tile_limit = max(1, _BACKWARD_TILE_FLOATS // (CHUNK * (2 * d_state + 6) * LANES)) * LANES
    tile = min(range_size, _MAX_TILE, tile_limit)

    grad_u = torch.empty(batch, pixels, channels, dtype=u.dtype)
    grad_dt = torch.empty(1 if rank == 0 else ranges, batch, pixels, n_routes, rank or route_channels)
    grad_b = torch.empty(ranges, batch, pixels, n_routes, d_state)
    grad_c = torch.empty_like(grad_b)
    grad_a = torch.empty(groups, n_routes, d_state, route_channels)
    grad_weight = torch.empty(groups, n_routes, rank, route_channels)
    grad_d = torch.empty(groups, n_routes, route_channels)
    grad_bias = torch.empty_like(grad_d)
    grad_initial = torch.empty(batch, n_routes, n_sequences, route_channels, d_state)
    largest_group = math.ceil(batch / groups) if groups else 0
    apart = _sums_apart(u, a, ranges > 1, largest_group * pixels * tile)
    threads.run_kernel(
        scan_backward,
        groups * ranges,
        backward_scratch(tile, d_state, rank, largest_group * pixels if apart else 0),
        (
            *(tile, FORMATS[u.dtype], FORMATS[dt.dtype], apart),
            *(batch, groups, range_size),
            *(pixels, n_routes, n_sequences, n_steps, route_channels, d_state, rank, order.data_ptr()),
            *_map_strides(u, route_channels, n_routes),
            *address_and_strides(dt),
            *address_and_strides(b),
            *address_and_strides(c),
            *_map_strides(grad_y, route_channels, n_routes),
            *_map_strides(grad_u, route_channels, n_routes),
            *(address(x) for x in (weight, a, d, bias, initial, states, grad_final)),
            *(x.data_ptr() for x in (grad_dt, grad_b, grad_c, grad_a, grad_weight, grad_d, grad_bias, grad_initial)),
        ),
    )
    results = (
        grad_u,
        _sum_of_parts(grad_dt),
        _sum_of_parts(grad_weight),
        _sum_of_parts(grad_a).mT,
        _sum_of_parts(grad_b),
        _sum_of_parts(grad_c),
        _sum_of_parts(grad_d),
        _sum_of_parts(grad_bias),
        grad_initial,
    )
    return tuple(
        None if x is None or g is None else g.to(x.dtype).contiguous() for x, g in zip(inputs, results, strict=True)
    )


def _in_one_format(*maps: Tensor) -> tuple[Tensor, ...]:
    """The maps as the kernels read them: in one format, with neighbouring channels; views where that is so already."""
    dtype = maps[0].dtype
    if not readable(dtype) or any(x.dtype != dtype for x in maps):
        dtype = torch.float32
    return tuple(with_unit_stride(x.to(dtype)) for x in maps)


def _sums_apart(u: Tensor, a: Tensor, shared: bool, floats: int) -> bool:
    """Whether tiles sum their routes in working memory instead of in the map.

    Half precision and blocks that are not full ask for it. Else it is for speed, an eighth of the time: a tile's own
    sums lie close together, its rows of the map a pixel's channels apart, between those of other threads. Sums that are
    too large for a cache would cost more than that.

    Args:
        u, a: of the scan.
        shared: several tasks work on one image.
        floats: that a task sums.
    """
    n_routes, route_channels, _ = a.shape
    for_speed = shared and n_routes > 1 and torch.get_num_threads() > 1 and floats <= _MAX_SUMS_FLOATS
    return for_speed or u.dtype != torch.float32 or route_channels % LANES != 0


def _packed_order(order: Tensor) -> Tensor:
    return order.to(torch.int32).contiguous()


def _map_strides(x: Tensor, route_channels: int, n_routes: int) -> tuple[int, int, int, int]:
    """Address, and strides over batch, pixels and routes, of a map (B, L, D) or of a map a route (B, K, L, Dk)."""
    if x.ndim == 4:
        batch, route, pixel, _ = x.stride()
    else:
        batch, pixel, _ = x.stride()
        route = 0 if route_channels == x.shape[-1] else route_channels
    return x.data_ptr(), batch, pixel, route


@functools.cache
def _even_tile(channels: int, images: int, limit: int, n_threads: int) -> int:
    """Channels a tile: a multiple of 16, at most `limit`, so that images × tiles keep all threads busy to the end."""
    blocks = math.ceil(channels / LANES)
    fewest = math.ceil(blocks / max(1, limit // LANES))

    def last_thread_ends(tiles: int) -> int:
        return math.ceil(images * tiles / n_threads) * math.ceil(blocks / tiles)

    tiles = min(range(fewest, min(fewest + n_threads, blocks + 1)), key=last_thread_ends)
    return math.ceil(blocks / tiles) * LANES


def _sum_of_parts(parts: Tensor) -> Tensor:
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)
