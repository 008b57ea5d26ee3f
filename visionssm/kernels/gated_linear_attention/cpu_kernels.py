"""Compiled passes of gated linear attention: the recurrence itself, one head of one sequence per task.

A tile is sixteen channels p of the values in the lanes, with a row of them for each key channel n; the state stays in
the first-level cache. Steps are visited by their number, from which an address is found: the caller turns a sequence
around by giving the address of the last step and a negative stride.

Names: `q` is the byte address of tensor q, `q_batch q_step q_head` its strides in elements over batch, steps and heads.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, add, clear, copy, padded
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import LANES, inlined, load, load_spread, multiply_add, spread, store, take_ticket
from visionssm.kernels.cpu.sums import sums_of_rows

CHUNK = 32  # steps between the states that the backward pass starts from
PANEL = 16  # steps whose values are held in the first-level cache; divides CHUNK
QUAD = 4  # steps that share one read of the state; divides PANEL

# mypy: disable-error-code="no-untyped-def"


def forward_memory(width: int, d_state: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    tile = padded(width)
    return {"s": d_state * tile, "values": PANEL * tile, "out": PANEL * tile}


@kernel_with(forward_memory)
def gated_forward(
    tasks, counter,
    s, values, out,
    n_steps, n_heads, width, d_state,
    q, q_batch, q_step, q_head,
    k, k_batch, k_step, k_head,
    v, v_batch, v_step, v_head,
    decay, decay_batch, decay_step, decay_head,
    y, y_batch, y_step, y_head,
    states,
):  # fmt: skip
    """Take heads from `counter` until none is left. decay: exp of the log decays; states: (B, C, H, N, P)."""
    tile = padded(width)
    rows = np.empty((3, PANEL), np.int64)  # addresses of each step's q, k and decay
    n_chunks = (n_steps + CHUNK - 1) // CHUNK

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        q_first = q + (batch * q_batch + head * q_head) * FLOAT
        k_first = k + (batch * k_batch + head * k_head) * FLOAT
        v_first = v + (batch * v_batch + head * v_head) * FLOAT
        decay_first = decay + (batch * decay_batch + head * decay_head) * FLOAT
        y_first = y + (batch * y_batch + head * y_head) * FLOAT
        clear(s, d_state * tile)
        for t in range(0, n_steps, PANEL):
            if states != 0 and t % CHUNK == 0:
                place = ((batch * n_chunks + t // CHUNK) * n_heads + head) * d_state
                for n in range(d_state):
                    copy(s + n * tile * FLOAT, states + (place + n) * width * FLOAT, width)
            steps = min(PANEL, n_steps - t)
            for j in range(steps):
                rows[0, j] = q_first + (t + j) * q_step * FLOAT
                rows[1, j] = k_first + (t + j) * k_step * FLOAT
                rows[2, j] = decay_first + (t + j) * decay_step * FLOAT
                copy(v_first + (t + j) * v_step * FLOAT, values + j * tile * FLOAT, width)
            for j in range(steps, (steps + QUAD - 1) // QUAD * QUAD):  # past the end: nothing reads the state any more
                rows[:, j] = rows[:, steps - 1]
            for block in range(0, tile, LANES):
                for j in range(0, steps, QUAD):
                    _four_steps(rows, j, s, values, out, d_state, tile, block)
            for j in range(steps):
                copy(out + j * tile * FLOAT, y_first + (t + j) * y_step * FLOAT, width)


@inlined
def _four_steps(rows, j, s, values, out, d_state, tile, block):
    """Steps j to j+3 of sixteen channels: the state is read and written once."""
    place = j * tile + block
    v0, v1 = load(values, place), load(values, place + tile)
    v2, v3 = load(values, place + 2 * tile), load(values, place + 3 * tile)
    q0, q1, q2, q3 = rows[0, j], rows[0, j + 1], rows[0, j + 2], rows[0, j + 3]
    k0, k1, k2, k3 = rows[1, j], rows[1, j + 1], rows[1, j + 2], rows[1, j + 3]
    keep0, keep1, keep2, keep3 = rows[2, j], rows[2, j + 1], rows[2, j + 2], rows[2, j + 3]
    y0 = y1 = y2 = y3 = spread(np.float32(0))
    for n in range(d_state):
        state = load(s, n * tile + block)
        y0 = multiply_add(load_spread(q0, n), state, y0)
        state = multiply_add(load_spread(keep0, n), state, load_spread(k0, n) * v0)
        y1 = multiply_add(load_spread(q1, n), state, y1)
        state = multiply_add(load_spread(keep1, n), state, load_spread(k1, n) * v1)
        y2 = multiply_add(load_spread(q2, n), state, y2)
        state = multiply_add(load_spread(keep2, n), state, load_spread(k2, n) * v2)
        y3 = multiply_add(load_spread(q3, n), state, y3)
        state = multiply_add(load_spread(keep3, n), state, load_spread(k3, n) * v3)
        store(s, n * tile + block, state)
    store(out, place, y0)
    store(out, place + tile, y1)
    store(out, place + 2 * tile, y2)
    store(out, place + 3 * tile, y3)


def backward_memory(width: int, d_state: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    n_padded = padded(d_state)
    return {
        "flow": padded(width) * n_padded,
        "s": (CHUNK + 1) * n_padded * LANES,
        "v_tile": CHUNK * LANES,
        "dy_tile": CHUNK * LANES,
        "dv": LANES,
        **dict.fromkeys(("sum_q", "sum_k", "sum_decay"), n_padded),
        **dict.fromkeys(("products_q", "products_k", "products_decay"), LANES * LANES),
    }


@kernel_with(backward_memory)
def gated_backward(
    tasks, counter,
    flow, s, v_tile, dy_tile, dv, sum_q, sum_k, sum_decay, products_q, products_k, products_decay,
    n_steps, n_heads, width, d_state,
    q, q_batch, q_step, q_head,
    k, k_batch, k_step, k_head,
    v, v_batch, v_step, v_head,
    decay, decay_batch, decay_step, decay_head,
    g_y, g_y_batch, g_y_step, g_y_head,
    states,
    grad_q, grad_k, grad_decay, grad_batch, grad_step, grad_head,
    grad_v, grad_v_batch, grad_v_step, grad_v_head,
):  # fmt: skip
    """Walk the chunks of a head from the last to the first; the states of a chunk are made again from its first.

    With S_t the state that step t reads and G_t the gradient that reaches it,

        G_t = diag(decay_t) G_{t+1} + q_t dy_tᵀ
        dq_t = S_t dy_t,   dk_t = G_{t+1} v_t,   dv_t = G_{t+1}ᵀ k_t
        dlog_decay_t = decay_t Σ_p G_{t+1} S_t

    grad_q, grad_k and grad_decay, that of the log decays, are (B, L, H, N) of the same strides.

    Blocks: `flow` is G_{t+1}, (tiles, N, 16); `s` has S_t of the chunk's steps, (chunk + 1, N, 16).
    """
    n_padded = padded(d_state)
    tile = padded(width)
    n_chunks = (n_steps + CHUNK - 1) // CHUNK

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        q_first = q + (batch * q_batch + head * q_head) * FLOAT
        k_first = k + (batch * k_batch + head * k_head) * FLOAT
        v_first = v + (batch * v_batch + head * v_head) * FLOAT
        decay_first = decay + (batch * decay_batch + head * decay_head) * FLOAT
        g_y_first = g_y + (batch * g_y_batch + head * g_y_head) * FLOAT
        clear(flow, tile * n_padded)
        for i in range(n_chunks):
            start = (n_chunks - 1 - i) * CHUNK
            steps = min(CHUNK, n_steps - start)
            saved = states + ((batch * n_chunks + start // CHUNK) * n_heads + head) * d_state * width * FLOAT
            for first in range(0, width, LANES):
                count = min(LANES, width - first)
                if count < LANES:  # lanes past the last channel hold zeros
                    clear(s, n_padded * LANES)
                    clear(v_tile, CHUNK * LANES)
                    clear(dy_tile, CHUNK * LANES)
                for n in range(d_state):
                    copy(saved + (n * width + first) * FLOAT, s + n * LANES * FLOAT, count)
                for j in range(steps):  # the chunk's states again
                    t = start + j
                    copy(v_first + (t * v_step + first) * FLOAT, v_tile + j * LANES * FLOAT, count)
                    copy(g_y_first + (t * g_y_step + first) * FLOAT, dy_tile + j * LANES * FLOAT, count)
                    k_row, keep_row = k_first + t * k_step * FLOAT, decay_first + t * decay_step * FLOAT
                    v_t, before = load(v_tile, j * LANES), s + j * n_padded * LANES * FLOAT
                    for n in range(d_state):
                        state = load_spread(keep_row, n) * load(before, n * LANES)
                        store(before, (n_padded + n) * LANES, multiply_add(load_spread(k_row, n), v_t, state))
                for j in range(steps - 1, -1, -1):
                    t = start + j
                    q_row, k_row = q_first + t * q_step * FLOAT, k_first + t * k_step * FLOAT
                    keep_row = decay_first + t * decay_step * FLOAT
                    v_t, dy_t = load(v_tile, j * LANES), load(dy_tile, j * LANES)
                    before, g = s + j * n_padded * LANES * FLOAT, flow + first * n_padded * FLOAT
                    read = _reverse_step(
                        before, g, q_row, k_row, keep_row, v_t, dy_t,
                        products_q, products_k, products_decay, sum_q, sum_k, sum_decay, d_state,
                    )  # fmt: skip
                    store(dv, 0, read)
                    place = (batch * grad_batch + t * grad_step + head * grad_head) * FLOAT
                    if first == 0:
                        copy(sum_q, grad_q + place, d_state)
                        copy(sum_k, grad_k + place, d_state)
                        copy(sum_decay, grad_decay + place, d_state)
                    else:
                        add(sum_q, grad_q + place, d_state)
                        add(sum_k, grad_k + place, d_state)
                        add(sum_decay, grad_decay + place, d_state)
                    row = batch * grad_v_batch + t * grad_v_step + head * grad_v_head + first
                    copy(dv, grad_v + row * FLOAT, count)


@inlined
def _reverse_step(
    before, g, q_row, k_row, keep_row, v_t, dy_t,
    products_q, products_k, products_decay, sum_q, sum_k, sum_decay, d_state,
):  # fmt: skip
    """One step of sixteen channels; `g` holds G_{t+1}, and then G_t. `before` is S_t.

    Writes Σ_p S dy, Σ_p G v and Σ_p decay G S of each key channel, and returns Σ_n k G of each value channel.
    """
    dv = spread(np.float32(0))
    for first in range(0, d_state, LANES):
        for i in range(min(LANES, d_state - first)):
            n = first + i
            flow, state = load(g, n * LANES), load(before, n * LANES)
            dv = multiply_add(load_spread(k_row, n), flow, dv)
            store(products_q, i * LANES, state * dy_t)
            store(products_k, i * LANES, flow * v_t)
            flow = load_spread(keep_row, n) * flow
            store(products_decay, i * LANES, flow * state)
            store(g, n * LANES, multiply_add(load_spread(q_row, n), dy_t, flow))
        store(sum_q, first, sums_of_rows(products_q))
        store(sum_k, first, sums_of_rows(products_k))
        store(sum_decay, first, sums_of_rows(products_decay))
    return dv
