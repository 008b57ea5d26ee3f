"""Compiled pass of the scan of a re-ordered map: four routes side by side, whose decays are computed once.

A task is one image and one tile of channels. It is walked in panels of `PANEL` steps: first the panel's step sizes
(low-rank product, bias, softplus), then the recurrence of sixteen channels at a time, with the states of the four
routes in the first-level cache. At one step two routes may visit the same pixel, so their results are added one after
the other.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, clear, copy, gather_transposed
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
from visionssm.kernels.selective_scan.cpu_forward import PANEL, QUAD, step_inputs

ROUTES = 4  # walked together

# mypy: disable-error-code="no-untyped-def"


def step_memory(tile: int, d_state: int, rank: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {
        "a_tile": d_state * tile,
        "h": ROUTES * d_state * tile,
        "w_tile": rank * tile,
        "bias_tile": tile,
        "skip_tile": tile,
        "delta": PANEL * tile,
    }


@inlined
def _place(order, step, n_pixels):
    """The pixel of a step; one of the map also where the table has changed since it was checked."""
    pixel = integer(order, step)
    if pixel < 0 or pixel >= n_pixels:
        pixel = 0
    return pixel


@inlined
def _accumulate(y, block, total):
    store(y, block, load(y, block) + total)


@kernel_with(step_memory)
def step_scan_forward(
    tasks, counter,
    a_tile, h, w_tile, bias_tile, skip_tile, delta,
    tile, n_pixels, n_channels, d_state, rank, order,
    u, u_batch, u_pixel,
    dt, dt_batch, dt_step,
    c, c_batch, c_step,
    y, b, weight, a, skip, bias,
):  # fmt: skip
    """Take tasks from `counter` until none is left. y: (B, L, D); b: (B, L, 4, N); weight: (R, D); a: (D, N)."""
    rows = np.empty((2, PANEL), np.int64)  # the second: addresses of a step's dt
    tiles = (n_channels + tile - 1) // tile
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch = task // tiles
        first = (task % tiles) * tile
        width = min(tile, n_channels - first)
        source = u + (batch * u_batch + first) * FLOAT
        target = y + (batch * n_pixels * n_channels + first) * FLOAT
        for pixel in range(n_pixels):
            clear(target + pixel * n_channels * FLOAT, width)
        clear(h, ROUTES * d_state * tile)
        gather_transposed(a + first * d_state * FLOAT, a_tile, width, d_state, tile, np.float32(LOG2_E))
        for r in range(rank):
            copy(weight + (r * n_channels + first) * FLOAT, w_tile + r * tile * FLOAT, width)
        copy(bias + first * FLOAT, bias_tile, width)
        copy(skip + first * FLOAT, skip_tile, width)
        for t in range(0, n_pixels, PANEL):
            steps = min(PANEL, n_pixels - t)
            for j in range((steps + QUAD - 1) // QUAD * QUAD):
                rows[1, j] = dt + (batch * dt_batch + (t + min(j, steps - 1)) * dt_step) * FLOAT
            for block in range(0, width, LANES):
                for j in range(0, steps, QUAD):
                    x0, x1, x2, x3 = step_inputs(rows, j, w_tile, rank, bias_tile, tile, block)
                    place = j * tile + block
                    store(delta, place, softplus(x0))
                    store(delta, place + tile, softplus(x1))
                    store(delta, place + 2 * tile, softplus(x2))
                    store(delta, place + 3 * tile, softplus(x3))
            for block in range(0, width, LANES):
                factor = load(skip_tile, block)
                for j in range(steps):
                    p0 = _place(order, t + j, n_pixels)
                    p1 = _place(order, n_pixels + t + j, n_pixels)
                    p2 = _place(order, 2 * n_pixels + t + j, n_pixels)
                    p3 = _place(order, 3 * n_pixels + t + j, n_pixels)
                    step = load(delta, j * tile + block)
                    u0 = load(source + p0 * u_pixel * FLOAT, block)
                    u1 = load(source + p1 * u_pixel * FLOAT, block)
                    u2 = load(source + p2 * u_pixel * FLOAT, block)
                    u3 = load(source + p3 * u_pixel * FLOAT, block)
                    out0, out1, out2, out3 = factor * u0, factor * u1, factor * u2, factor * u3
                    u0, u1, u2, u3 = step * u0, step * u1, step * u2, step * u3
                    towards = b + (batch * n_pixels + t + j) * ROUTES * d_state * FLOAT
                    read = c + (batch * c_batch + (t + j) * c_step) * FLOAT
                    for n in range(d_state):
                        decay = exp2(step * load(a_tile, n * tile + block))
                        weight_n = load_spread(read, n)
                        place = ROUTES * n * tile + block
                        state = multiply_add(decay, load(h, place), u0 * load_spread(towards, n))
                        store(h, place, state)
                        out0 = multiply_add(state, weight_n, out0)
                        place += tile
                        state = multiply_add(decay, load(h, place), u1 * load_spread(towards, d_state + n))
                        store(h, place, state)
                        out1 = multiply_add(state, weight_n, out1)
                        place += tile
                        state = multiply_add(decay, load(h, place), u2 * load_spread(towards, 2 * d_state + n))
                        store(h, place, state)
                        out2 = multiply_add(state, weight_n, out2)
                        place += tile
                        state = multiply_add(decay, load(h, place), u3 * load_spread(towards, 3 * d_state + n))
                        store(h, place, state)
                        out3 = multiply_add(state, weight_n, out3)
                    _accumulate(target + p0 * n_channels * FLOAT, block, out0)
                    _accumulate(target + p1 * n_channels * FLOAT, block, out1)
                    _accumulate(target + p2 * n_channels * FLOAT, block, out2)
                    _accumulate(target + p3 * n_channels * FLOAT, block, out3)
