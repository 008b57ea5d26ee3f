"""Compiled passes of state-space duality: the recurrence itself, one head of one sequence per task.

On a CPU the recurrence does less arithmetic than its form in matrix products (2NP multiplications per step, against
2NP + Q(N + P) in chunks of Q steps) and its state stays in the first-level cache. A tile is sixteen channels p in the
lanes, with a row of them for each state n.

Names: `x` is the byte address of tensor x, `x_batch x_step x_head` its strides in elements over batch, steps and heads.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, add, clear, copy, gather_transposed, padded, scatter_transposed
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    inlined,
    load,
    load_spread,
    multiply_add,
    put,
    scalar,
    spread,
    store,
    take_ticket,
    total,
)
from visionssm.kernels.cpu.sums import sums_of_rows

PANEL = 16  # steps whose inputs are held in the first-level cache; divides every chunk
QUAD = 4  # steps that share one read of the state; divides PANEL

# mypy: disable-error-code="no-untyped-def"


def forward_memory(width: int, d_state: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    tile = padded(width)
    return {
        "zeros": padded(d_state),
        "h": d_state * tile,
        "drive": PANEL * tile,
        "out": PANEL * tile,
    }


@kernel_with(forward_memory)
def ssd_forward(
    tasks, counter,
    zeros, h, drive, out,
    n_steps, n_heads, group_heads, width, d_state, chunk,
    x, x_batch, x_step, x_head,
    b, b_batch, b_step, b_group,
    c, c_batch, c_step, c_group,
    dt, decay, skip, initial, y, final, states,
):  # fmt: skip
    """Take heads from `counter` until none is left. dt, decay: (B, L, H); y: (B, L, H, P); states: (B, C, H, N, P).

    `drive` is Δ·x.
    """
    tile = padded(width)
    one = np.float32(1)
    keep = np.empty(PANEL, np.float32)  # decay of each step
    rows = np.empty((2, PANEL), np.int64)  # addresses of each step's b and c
    n_chunks = (n_steps + chunk - 1) // chunk

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        group = head // group_heads
        factor = np.float32(0)
        if skip != 0:
            factor = scalar(skip, head)
        clear(h, d_state * tile)
        if initial != 0:
            gather_transposed(initial + task * width * d_state * FLOAT, h, width, d_state, tile, one)
        for t in range(0, n_steps, PANEL):
            if states != 0 and t % chunk == 0:
                place = ((batch * n_chunks + t // chunk) * n_heads + head) * d_state
                for n in range(d_state):
                    copy(h + n * tile * FLOAT, states + (place + n) * width * FLOAT, width)
            steps = min(PANEL, n_steps - t)
            for j in range((steps + QUAD - 1) // QUAD * QUAD):
                if j < steps:
                    step = (batch * n_steps + t + j) * n_heads + head
                    keep[j] = scalar(decay, step)
                    rows[0, j] = b + (batch * b_batch + (t + j) * b_step + group * b_group) * FLOAT
                    rows[1, j] = c + (batch * c_batch + (t + j) * c_step + group * c_group) * FLOAT
                    scaled_copy(
                        x + (batch * x_batch + (t + j) * x_step + head * x_head) * FLOAT,
                        drive + j * tile * FLOAT,
                        width,
                        scalar(dt, step),
                    )
                else:  # past the end: the state stays
                    keep[j] = one
                    rows[0, j] = rows[1, j] = zeros
                    clear(drive + j * tile * FLOAT, tile)
            for block in range(0, tile, LANES):
                for j in range(0, steps, QUAD):
                    _four_steps(rows, keep, j, h, drive, out, d_state, tile, block)
            for j in range(steps):
                step = (batch * n_steps + t + j) * n_heads + head
                row = y + step * width * FLOAT
                copy(out + j * tile * FLOAT, row, width)
                if skip != 0:
                    add_scaled(x + (batch * x_batch + (t + j) * x_step + head * x_head) * FLOAT, row, width, factor)
        scatter_transposed(h, final + task * width * d_state * FLOAT, width, d_state, tile)


@inlined
def scaled_copy(source, target, count, factor):
    """Copy `count` floats times a factor."""
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(target, i, load(source, i) * spread(factor))
    for i in range(whole, count):
        put(target, i, scalar(source, i) * factor)


@inlined
def add_scaled(source, target, count, factor):
    """Add `count` floats times a factor to others."""
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(target, i, multiply_add(load(source, i), spread(factor), load(target, i)))
    for i in range(whole, count):
        put(target, i, scalar(target, i) + scalar(source, i) * factor)


@inlined
def _four_steps(rows, keep, j, h, drive, out, d_state, tile, block):
    """Steps j to j+3 of sixteen channels: the state is read and written once."""
    place = j * tile + block
    x0, x1 = load(drive, place), load(drive, place + tile)
    x2, x3 = load(drive, place + 2 * tile), load(drive, place + 3 * tile)
    keep0, keep1, keep2, keep3 = spread(keep[j]), spread(keep[j + 1]), spread(keep[j + 2]), spread(keep[j + 3])
    b0, b1, b2, b3 = rows[0, j], rows[0, j + 1], rows[0, j + 2], rows[0, j + 3]
    c0, c1, c2, c3 = rows[1, j], rows[1, j + 1], rows[1, j + 2], rows[1, j + 3]
    y0 = y1 = y2 = y3 = spread(np.float32(0))
    for n in range(d_state):
        state = load(h, n * tile + block)
        state = multiply_add(keep0, state, load_spread(b0, n) * x0)
        y0 = multiply_add(load_spread(c0, n), state, y0)
        state = multiply_add(keep1, state, load_spread(b1, n) * x1)
        y1 = multiply_add(load_spread(c1, n), state, y1)
        state = multiply_add(keep2, state, load_spread(b2, n) * x2)
        y2 = multiply_add(load_spread(c2, n), state, y2)
        state = multiply_add(keep3, state, load_spread(b3, n) * x3)
        y3 = multiply_add(load_spread(c3, n), state, y3)
        store(h, n * tile + block, state)
    store(out, place, y0)
    store(out, place + tile, y1)
    store(out, place + 2 * tile, y2)
    store(out, place + 3 * tile, y3)


def backward_memory(width: int, d_state: int, chunk: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    n_padded = padded(d_state)
    return {
        "flow": padded(width) * n_padded,
        "h": (chunk + 1) * n_padded * LANES,
        "x_tile": chunk * LANES,
        "dy_tile": chunk * LANES,
        "dx": LANES,
        "sum_b": n_padded,
        "sum_c": n_padded,
        "products": LANES * LANES,
        "products_c": LANES * LANES,
    }


@kernel_with(backward_memory)
def ssd_backward(
    tasks, counter,
    flow, h, x_tile, dy_tile, dx, sum_b, sum_c, products, products_c,
    n_steps, n_heads, group_heads, width, d_state, chunk,
    x, x_batch, x_step, x_head,
    b, b_batch, b_step, b_group,
    c, c_batch, c_step, c_group,
    g_y, g_y_batch, g_y_step, g_y_head,
    dt, decay, skip, states, g_final,
    grad_x, grad_b, grad_c, grad_decay, grad_drive, grad_skip, grad_initial,
):  # fmt: skip
    """Walk the chunks of a head from the last to the first; the states of a chunk are made again from its first.

    With g_t the gradient that reaches h_t, from its own output and from all later steps,

        g_t = dy_t c_tᵀ + decay_{t+1} g_{t+1}
        dc_t = Σ_p dy_t h_t,   db_t = Δ_t Σ_p x_t g_t,   dx_t = Δ_t Σ_n b_t g_t + skip dy_t

    Written per step and head: `grad_decay` <g_t, decay_t h_{t−1}>, the gradient of log(decay_t); `grad_drive`
    <x_t, Σ_n b_t g_t>, that of Δ_t through Δ_t x_t; `grad_skip` <x_t, dy_t>. grad_b, grad_c: (B, L, H, N), a part of
    every head.

    Blocks: `flow` is decay_{t+1} g_{t+1}, (tiles, N, 16); `h` has h_{t−1} of the chunk's steps, then the last h_t,
    (chunk + 1, N, 16).
    """
    n_padded = padded(d_state)
    tile = padded(width)
    one = np.float32(1)
    n_chunks = (n_steps + chunk - 1) // chunk

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        group = head // group_heads
        factor = np.float32(0)
        if skip != 0:
            factor = scalar(skip, head)
        clear(flow, tile * n_padded)
        if g_final != 0:
            for first in range(0, width, LANES):
                source = g_final + (task * width + first) * d_state * FLOAT
                target = flow + first * n_padded * FLOAT
                gather_transposed(source, target, min(LANES, width - first), d_state, LANES, one)
        for i in range(n_chunks):
            start = (n_chunks - 1 - i) * chunk
            steps = min(chunk, n_steps - start)
            saved = states + ((batch * n_chunks + start // chunk) * n_heads + head) * d_state * width * FLOAT
            for first in range(0, width, LANES):
                count = min(LANES, width - first)
                if count < LANES:  # lanes past the last channel hold zeros
                    clear(h, n_padded * LANES)
                    clear(x_tile, chunk * LANES)
                    clear(dy_tile, chunk * LANES)
                for n in range(d_state):
                    copy(saved + (n * width + first) * FLOAT, h + n * LANES * FLOAT, count)
                for j in range(steps):  # the chunk's states again
                    t = start + j
                    step = (batch * n_steps + t) * n_heads + head
                    copy(
                        x + (batch * x_batch + t * x_step + head * x_head + first) * FLOAT,
                        x_tile + j * LANES * FLOAT,
                        count,
                    )
                    row = g_y + (batch * g_y_batch + t * g_y_step + head * g_y_head + first) * FLOAT
                    copy(row, dy_tile + j * LANES * FLOAT, count)
                    b_row = b + (batch * b_batch + t * b_step + group * b_group) * FLOAT
                    drive, keep = load(x_tile, j * LANES) * load_spread(dt, step), load_spread(decay, step)
                    before = h + j * n_padded * LANES * FLOAT
                    for n in range(d_state):
                        state = multiply_add(keep, load(before, n * LANES), load_spread(b_row, n) * drive)
                        store(before, (n_padded + n) * LANES, state)
                for j in range(steps - 1, -1, -1):
                    t = start + j
                    step = (batch * n_steps + t) * n_heads + head
                    x_t, dy_t = load(x_tile, j * LANES), load(dy_tile, j * LANES)
                    delta, keep = load_spread(dt, step), load_spread(decay, step)
                    b_row = b + (batch * b_batch + t * b_step + group * b_group) * FLOAT
                    c_row = c + (batch * c_batch + t * c_step + group * c_group) * FLOAT
                    before, g = h + j * n_padded * LANES * FLOAT, flow + first * n_padded * FLOAT
                    read, kept = _reverse_step(
                        before, g, b_row, c_row, keep, delta * x_t, dy_t,
                        products, products_c, sum_b, sum_c, d_state, n_padded,
                    )  # fmt: skip
                    to_decay, to_drive, to_skip = total(kept), total(read * x_t), total(x_t * dy_t)
                    if first == 0:
                        copy(sum_b, grad_b + step * d_state * FLOAT, d_state)
                        copy(sum_c, grad_c + step * d_state * FLOAT, d_state)
                    else:
                        add(sum_b, grad_b + step * d_state * FLOAT, d_state)
                        add(sum_c, grad_c + step * d_state * FLOAT, d_state)
                        to_decay += scalar(grad_decay, step)
                        to_drive += scalar(grad_drive, step)
                        to_skip += scalar(grad_skip, step)
                    put(grad_decay, step, to_decay)
                    put(grad_drive, step, to_drive)
                    put(grad_skip, step, to_skip)
                    store(dx, 0, multiply_add(delta, read, spread(factor) * dy_t))
                    copy(dx, grad_x + (step * width + first) * FLOAT, count)
        for first in range(0, width, LANES):
            target = grad_initial + (task * width + first) * d_state * FLOAT
            source = flow + first * n_padded * FLOAT
            scatter_transposed(source, target, min(LANES, width - first), d_state, LANES)


@inlined
def _reverse_step(
    before, g, b_row, c_row, keep, drive, dy_t, products, products_c, sum_b, sum_c, d_state, n_padded
):  # fmt: skip
    """One step of sixteen channels; `g` holds what flows in from the next step, and then what flows to the one before.

    Writes Σ_p g drive and Σ_p h dy of each state, and returns Σ_n b g and Σ_n g decay h_{t−1} of each channel.
    """
    read = kept = spread(np.float32(0))
    for first in range(0, d_state, LANES):
        for k in range(min(LANES, d_state - first)):
            n = first + k
            flow = multiply_add(load_spread(c_row, n), dy_t, load(g, n * LANES))
            read = multiply_add(load_spread(b_row, n), flow, read)
            store(products, k * LANES, flow * drive)
            store(products_c, k * LANES, load(before, (n_padded + n) * LANES) * dy_t)
            flow = keep * flow
            kept = multiply_add(flow, load(before, n * LANES), kept)
            store(g, n * LANES, flow)
        store(sum_b, first, sums_of_rows(products))
        store(sum_c, first, sums_of_rows(products_c))
    return read, kept
