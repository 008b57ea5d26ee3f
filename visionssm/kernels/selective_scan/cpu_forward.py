"""Compiled forward pass of the selective scan.

A task is one image and one tile of channels; it walks every route, so merging routes is a plain addition. A tile is
walked in panels of `PANEL` steps: first the panel's step sizes (low-rank product, bias, softplus), then the recurrence,
sixteen channels at a time with their state in the first-level cache. Meanwhile the next panel's rows are brought into
the caches: along columns they lie so far apart that the processor does not foresee them.

Names: `x` is the byte address of tensor x, `x_batch x_pixel x_route` its strides in elements over batch, pixels and
routes. A step outside the map reads a row of zeros and writes to a row that nobody reads, so the loops know nothing of
it.

`map_kind` is the format of u and y, `vector_kind` that of dt, b and c (see `cpu.half`). Rows in half precision are
widened a panel at a time, and so are those of a last block that reaches over the last channel, which sixteen lanes
must not read. With `sums_apart`, the sum over routes is kept in working memory and written, rounded, when complete.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, clear, copy, fetch, gather_transposed, scatter_transposed
from visionssm.kernels.cpu.half import item_size, narrow, widen
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    LOG2_E,
    exp2,
    inlined,
    integer,
    load,
    load_spread,
    multiply_add,
    softplus,
    store,
    take_ticket,
)

PANEL = 16  # steps whose step sizes are held in the first-level cache
QUAD = 4  # steps that share one read of the low-rank weights; divides PANEL
CHUNK = 128  # steps between saved states; a multiple of PANEL

# mypy: disable-error-code="no-untyped-def"


def forward_memory(tile: int, d_state: int, rank: int, n_pixels: int, sums_apart: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {
        "zeros": max(tile, d_state, rank),
        "a_tile": d_state * tile,
        "h": d_state * tile,
        "w_tile": rank * tile,
        "bias_tile": tile,
        "skip_tile": tile,
        "unread": tile,
        "delta": PANEL * tile,
        "drive": PANEL * tile,
        "u_copy": PANEL * tile,
        "dt_copy": PANEL * tile,
        "vectors": PANEL * (rank + 2 * d_state),
        "sums": n_pixels * tile if sums_apart else 0,
    }


@inlined
def step_inputs(rows, j, weight, rank, bias, tile, block):
    """Step sizes before softplus of steps j to j+3 for sixteen channels. rows[1]: dt of each step."""
    row0, row1, row2, row3 = rows[1, j], rows[1, j + 1], rows[1, j + 2], rows[1, j + 3]
    x0 = x1 = x2 = x3 = load(bias, block)
    if rank == 0:
        return x0 + load(row0, block), x1 + load(row1, block), x2 + load(row2, block), x3 + load(row3, block)
    for r in range(rank):
        w = load(weight, r * tile + block)
        x0 = multiply_add(w, load_spread(row0, r), x0)
        x1 = multiply_add(w, load_spread(row1, r), x1)
        x2 = multiply_add(w, load_spread(row2, r), x2)
        x3 = multiply_add(w, load_spread(row3, r), x3)
    return x0, x1, x2, x3


@inlined
def widened(source, target, count, kind):
    """`widen`; where the numbers are now."""
    widen(source, target, count, kind)
    return target


@inlined
def widen_vectors(rows, j, vectors, rank, d_state, kind):
    """Bring the low-rank dt (if any), b and c of step j to float32, into its place among `vectors`."""
    place = vectors + j * (rank + 2 * d_state) * FLOAT
    if rank != 0:
        rows[1, j] = widened(rows[1, j], place, rank, kind)
    place += rank * FLOAT
    rows[2, j] = widened(rows[2, j], place, d_state, kind)
    rows[3, j] = widened(rows[3, j], place + d_state * FLOAT, d_state, kind)


@kernel_with(forward_memory, unset=["sums"])
def scan_forward(
    tasks, counter,
    zeros, a_tile, h, w_tile, bias_tile, skip_tile, unread, delta, drive, u_copy, dt_copy, vectors, sums,
    tile, map_kind, vector_kind, sums_apart,
    n_pixels, n_routes, n_sequences, n_steps, n_channels, d_state, rank, order,
    u, u_batch, u_pixel, u_route,
    dt, dt_batch, dt_pixel, dt_route,
    b, b_batch, b_pixel, b_route,
    c, c_batch, c_pixel, c_route,
    y, y_batch, y_pixel, y_route,
    weight, a, skip, bias, initial, final, states,
):  # fmt: skip
    """Take tasks from `counter` until none is left. `drive` is Δ·u."""
    map_item, vector_item = item_size(map_kind), item_size(vector_kind)
    rows = np.empty((5, PANEL), np.int64)  # addresses of a step's u, dt, b, c, y
    tiles = (n_channels + tile - 1) // tile
    n_chunks = n_steps // CHUNK

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch = task // tiles
        first = (task % tiles) * tile
        count = min(tile, n_channels - first)
        width = (count + LANES - 1) // LANES * LANES
        ragged = count != width  # the last block reaches over the last channel
        for k in range(n_routes):
            if k == 0 or y_route != 0:
                if sums_apart != 0:
                    clear(sums, n_pixels * tile)
                else:
                    for pixel in range(n_pixels):
                        clear(y + (batch * y_batch + pixel * y_pixel + k * y_route + first) * FLOAT, count)
            clear(a_tile, d_state * tile)
            gather_transposed(
                a + (k * n_channels + first) * d_state * FLOAT, a_tile, count, d_state, tile, np.float32(LOG2_E)
            )
            for r in range(rank):
                copy(weight + ((k * rank + r) * n_channels + first) * FLOAT, w_tile + r * tile * FLOAT, count)
            if bias != 0:
                copy(bias + (k * n_channels + first) * FLOAT, bias_tile, count)
            if skip != 0:
                copy(skip + (k * n_channels + first) * FLOAT, skip_tile, count)
            for s in range(n_sequences):
                sequence = (batch * n_routes + k) * n_sequences + s
                clear(h, d_state * tile)
                if initial != 0:
                    start = initial + (sequence * n_channels + first) * d_state * FLOAT
                    gather_transposed(start, h, count, d_state, tile, np.float32(1))
                for t in range(0, n_steps, PANEL):
                    steps = min(PANEL, n_steps - t)
                    for j in range((steps + QUAD - 1) // QUAD * QUAD):
                        pixel = -1
                        if j < steps:
                            pixel = integer(order, (k * n_sequences + s) * n_steps + t + j)
                        if pixel < 0 or pixel >= n_pixels:  # also where the table has changed since it was checked
                            rows[0, j] = rows[1, j] = rows[2, j] = rows[3, j] = zeros
                            rows[4, j] = unread
                        else:
                            rows[0, j] = u + (batch * u_batch + pixel * u_pixel + k * u_route + first) * map_item
                            rows[1, j] = dt + (batch * dt_batch + pixel * dt_pixel + k * dt_route) * vector_item
                            if rank == 0:
                                rows[1, j] += first * vector_item
                            rows[2, j] = b + (batch * b_batch + pixel * b_pixel + k * b_route) * vector_item
                            rows[3, j] = c + (batch * c_batch + pixel * c_pixel + k * c_route) * vector_item
                            if sums_apart != 0:
                                rows[4, j] = sums + pixel * tile * FLOAT
                            else:
                                rows[4, j] = y + (batch * y_batch + pixel * y_pixel + k * y_route + first) * FLOAT
                            if ragged or map_kind != 0:
                                rows[0, j] = widened(rows[0, j], u_copy + j * tile * FLOAT, count, map_kind)
                            if rank == 0 and (ragged or vector_kind != 0):
                                rows[1, j] = widened(rows[1, j], dt_copy + j * tile * FLOAT, count, vector_kind)
                            if vector_kind != 0:
                                widen_vectors(rows, j, vectors, rank, d_state, vector_kind)
                    for visit in range(t + PANEL, min(t + 2 * PANEL, n_steps)):
                        pixel = integer(order, (k * n_sequences + s) * n_steps + visit)
                        fetch(u + (batch * u_batch + pixel * u_pixel + k * u_route + first) * map_item, count)
                        fetch(dt + (batch * dt_batch + pixel * dt_pixel + k * dt_route) * vector_item, rank)
                        fetch(b + (batch * b_batch + pixel * b_pixel + k * b_route) * vector_item, d_state)
                        fetch(c + (batch * c_batch + pixel * c_pixel + k * c_route) * vector_item, d_state)
                        if sums_apart == 0:
                            fetch(y + (batch * y_batch + pixel * y_pixel + k * y_route + first) * FLOAT, count)
                    _panel_step_sizes(rows, steps, w_tile, rank, bias_tile, tile, width, delta, drive)
                    _panel_recurrence(rows, steps, a_tile, skip_tile, h, d_state, tile, width, delta, drive)
                    if states != 0 and (t + steps) % CHUNK == 0:
                        chunk = (t + steps) // CHUNK - 1
                        for n in range(d_state):
                            place = ((sequence * n_chunks + chunk) * d_state + n) * n_channels + first
                            copy(h + n * tile * FLOAT, states + place * FLOAT, count)
                end = final + (sequence * n_channels + first) * d_state * FLOAT
                scatter_transposed(h, end, count, d_state, tile)
            if sums_apart != 0 and (y_route != 0 or k == n_routes - 1):
                for pixel in range(n_pixels):
                    place = (batch * y_batch + pixel * y_pixel + k * y_route + first) * map_item
                    narrow(sums + pixel * tile * FLOAT, y + place, count, map_kind)


@inlined
def _panel_step_sizes(rows, steps, weight, rank, bias, tile, width, delta, drive):
    for block in range(0, width, LANES):
        for j in range(0, steps, QUAD):
            x0, x1, x2, x3 = step_inputs(rows, j, weight, rank, bias, tile, block)
            place = j * tile + block
            delta0, delta1, delta2, delta3 = softplus(x0), softplus(x1), softplus(x2), softplus(x3)
            store(delta, place, delta0)
            store(delta, place + tile, delta1)
            store(delta, place + 2 * tile, delta2)
            store(delta, place + 3 * tile, delta3)
            store(drive, place, delta0 * load(rows[0, j], block))
            store(drive, place + tile, delta1 * load(rows[0, j + 1], block))
            store(drive, place + 2 * tile, delta2 * load(rows[0, j + 2], block))
            store(drive, place + 3 * tile, delta3 * load(rows[0, j + 3], block))


@inlined
def _panel_recurrence(rows, steps, a, skip, h, d_state, tile, width, delta, drive):
    for block in range(0, width, LANES):
        factor = load(skip, block)
        if d_state == 1:  # the state stays in a register
            rate, state = load(a, block), load(h, block)
            for j in range(steps):
                decay = exp2(load(delta, j * tile + block) * rate)
                state = multiply_add(decay, state, load(drive, j * tile + block) * load_spread(rows[2, j], 0))
                out = multiply_add(factor, load(rows[0, j], block), load(rows[4, j], block))
                store(rows[4, j], block, multiply_add(state, load_spread(rows[3, j], 0), out))
            store(h, block, state)
        else:
            for j in range(steps):
                step, du = load(delta, j * tile + block), load(drive, j * tile + block)
                b, c = rows[2, j], rows[3, j]
                out = multiply_add(factor, load(rows[0, j], block), load(rows[4, j], block))
                for n in range(d_state):
                    place = n * tile + block
                    decay = exp2(step * load(a, place))
                    state = multiply_add(decay, load(h, place), du * load_spread(b, n))
                    store(h, place, state)
                    out = multiply_add(state, load_spread(c, n), out)
                store(rows[4, j], block, out)
