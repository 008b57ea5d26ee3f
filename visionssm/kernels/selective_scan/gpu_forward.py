# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the selective scan's forward pass, and of what enters the parts of a sequence; see `gpu_steps`."""

from __future__ import annotations

import triton
import triton.language as tl

from visionssm.kernels.selective_scan.gpu_steps import (
    LOG2E,
    load_tile,
    program_place,
    raw_steps,
    row_of,
    softplus_excess,
    step_weights,
    visited_pixels,
    walk_chunk,
)

UNROLLED_STATES = tl.constexpr(16)  # more states than that are a loop, which compiles faster than it runs


@triton.jit
def _one_state(n, state, delta, delta_u, a, b, on_b, inside, d, on_d, step, n_index, D: tl.constexpr):
    """The states of number n in a chunk, and the tile of carried states with the last of them."""
    a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
    b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
    h = walk_chunk(tl.exp2(delta * a_n[None, :]), delta_u * b_n[:, None], row_of(state, n, n_index), step)
    last = row_of(h, step.shape[0] - 1, step)
    return h, tl.where(n_index[:, None] == n, last[None, :], state)


@triton.jit
def _read_out(n, total, h, c, on_c, inside):
    """Σ_n c_n h_n with one more state."""
    c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
    return total + h * c_n[:, None]


@triton.jit
def selective_scan_forward(
    # maps and tables; the last dimension of each is contiguous; b and c are None where they follow dt
    u, dt, dt_weight, a, b, c, skip, dt_bias, order, initial_state,
    # states at the start of each part of a sequence, where it has several: (rows, parts, N, D)
    carried,
    # results: y is zeroed float32
    y, final_state, states, deltas,
    # strides between batch elements, routes and pixels
    u_batch, u_pixel, dt_batch, dt_route, dt_pixel, b_batch, b_route, b_pixel, c_batch, c_route, c_pixel,
    y_batch, y_route, y_pixel,
    # sizes
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    MAP_CHANNELS: tl.constexpr, K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, RANK_PADDED: tl.constexpr, SAVED_APART: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence; add y to its pixels, write the states at its end and between chunks.

    Without `y`, it only finds out what a part does to the state that enters it, h → exp(a·delta)·h + end: `states`
    takes `end`, (rows, parts, N, D), and `deltas` the sum of the part's Δ, (rows, parts, D).

    With APART, y has a place for each step of each route instead of each pixel, so that the order of additions to a
    pixel does not depend on which program comes first.
    """
    batch, route, sequence, part, block, row, part_row = program_place(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    group = route * (D if MAP_CHANNELS > D else 0)  # route k reads channels from k·D on, or all of them
    u += batch * u_batch + group
    dt += batch * dt_batch + route * dt_route
    if b is None:
        b = dt + RANK
        c = b + N
    else:
        b += batch * b_batch + route * b_route
        if c is not None:
            c += batch * c_batch + route * c_route
    if y is not None:
        y += batch * y_batch + route * y_route
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    # As if channels were not aligned: no lane then reads two neighbours, which would split time between lanes.
    d = tl.multiple_of(block * CHANNELS + tl.arange(0, CHANNELS), 1)
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    step = tl.arange(0, STEPS)

    column, on_column, w1, w2, w3, bias = step_weights(
        dt, dt_weight, dt_bias, route, d, on_d, D, RANK, RANK_PADDED, PRECISION
    )
    if skip is not None:
        skip_d = tl.load(skip + route * D + d, mask=on_d, other=0.0)

    # The state that is carried, (N, D) so that channels lie across threads as they do in the (T, D) tiles.
    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_channel = row * D * N + d[None, :] * N + n_index[:, None]  # in (D, N) tensors
    by_state = n_index[:, None] * D + d[None, :]  # in (N, D) tensors
    state = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    if carried is not None:
        state = tl.load(carried + part_row * N * D + by_state, mask=on_state, other=0.0)
    elif initial_state is not None:
        state = tl.load(initial_state + by_channel, mask=on_state, other=0.0).to(tl.float32)
    n_saved = tl.cdiv(n_steps, SAVED_APART) - 1
    delta_sum = tl.zeros([CHANNELS], tl.float32)

    first = part * part_steps
    stop = n_steps if n_parts == 1 else tl.minimum(first + part_steps, n_steps)  # one part costs no register
    pixel, exists, inside = visited_pixels(order, first, n_steps, n_pixels, STEPS, OFFSET)
    u_t = load_tile(u, pixel * u_pixel, inside, d, on_d)
    steps = load_tile(dt, pixel * dt_pixel, inside, column, on_column)
    for start in tl.range(first, stop, STEPS, num_stages=1):
        next_pixel, _, next_inside = visited_pixels(order, start + STEPS, n_steps, n_pixels, STEPS, OFFSET)
        next_u = load_tile(u, next_pixel * u_pixel, next_inside, d, on_d)
        next_steps = load_tile(dt, next_pixel * dt_pixel, next_inside, column, on_column)
        exists = start + step < n_steps
        inside = (pixel >= 0) & (pixel < n_pixels)
        if b_pixel is None:
            on_b = pixel * dt_pixel
            on_c = on_b
        else:
            on_b, on_c = pixel * b_pixel, pixel * c_pixel
        if y is not None and states is not None:
            saved = states + (row * n_saved + start // SAVED_APART - 1) * N * D
            tl.store(saved + by_state, state, mask=on_state & ((start > 0) & (start % SAVED_APART == 0)))

        raw = raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + softplus_excess(raw)
        u_t = u_t.to(tl.float32)
        delta_u = delta * u_t
        if y is None:
            delta_sum += tl.sum(delta, 0)
        y_t = tl.zeros([STEPS, CHANNELS], tl.float32)
        if skip is not None:
            y_t = skip_d[None, :] * u_t

        if N <= UNROLLED_STATES:
            for n in tl.static_range(N):
                h, state = _one_state(n, state, delta, delta_u, a, b, on_b, inside, d, on_d, step, n_index, D)
                if y is not None:
                    y_t = _read_out(n, y_t, h, c, on_c, inside)
        else:
            for n in tl.range(0, N, num_stages=1):
                h, state = _one_state(n, state, delta, delta_u, a, b, on_b, inside, d, on_d, step, n_index, D)
                if y is not None:
                    y_t = _read_out(n, y_t, h, c, on_c, inside)

        # Atomic, because other routes add to the same pixels at the same time, and even a single route may visit
        # a pixel twice: only the table's values could tell, and they are not known when the kernel is launched.
        if y is not None:
            on_map = inside[:, None] & on_d[None, :]
            place = (sequence * n_steps + start + step).to(OFFSET) if APART else pixel
            tl.atomic_add(y + place[:, None] * y_pixel + d[None, :], y_t, mask=on_map, sem="relaxed")
        pixel = next_pixel
        u_t = next_u
        steps = next_steps

    if final_state is not None:
        tl.store(final_state + by_channel, state, mask=on_state)
    if y is None:
        tl.store(states + part_row * N * D + by_state, state, mask=on_state)
        tl.store(deltas + part_row * D + d, delta_sum, mask=on_d)


@triton.jit
def carry_over_parts(
    a, first, ends, deltas, carried, last, n_sequences, n_parts,
    K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, BACKWARDS: tl.constexpr,
):  # fmt: skip
    """What enters each part of a sequence: h → exp(a·delta)·h + end, one part after the other, or from the last one.

    `first` enters the first part and `last` leaves the last one, (rows, D, N) or None; `ends` and `carried` are
    (rows, parts, N, D), `deltas` (rows, parts, D).
    """
    _, route, _, _, block, row, _ = program_place(K, n_sequences, 1, CHANNEL_BLOCKS)
    d = block * CHANNELS + tl.arange(0, CHANNELS)
    n_index = tl.arange(0, N_PADDED)
    on_d = d < D
    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_state = n_index[:, None] * D + d[None, :]
    rate = tl.load(a + route * N * D + by_state, mask=on_state, other=0.0) * LOG2E
    state = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    by_channel = row * D * N + d[None, :] * N + n_index[:, None]
    if first is not None:
        state = tl.load(first + by_channel, mask=on_state, other=0.0).to(tl.float32)
    for i in range(n_parts):
        part = row * n_parts + (n_parts - 1 - i if BACKWARDS else i)
        tl.store(carried + part * N * D + by_state, state, mask=on_state)
        delta = tl.load(deltas + part * D + d, mask=on_d, other=0.0)
        end = tl.load(ends + part * N * D + by_state, mask=on_state, other=0.0)
        state = tl.exp2(rate * delta[None, :]) * state + end
    if last is not None:
        tl.store(last + by_channel, state, mask=on_state)
