# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the selective scan: one program walks a part of one sequence for a block of channels.

Along a sequence the state of every (channel d, state n) is a chain of affine maps h → decay_t·h + x_t with
decay_t = exp(Δ_t a), x_t = Δ_t b_t u_t. Affine maps compose associatively, so a chunk of STEPS steps is one parallel
scan, and only the state at its end is carried to the next chunk, in registers and in float32. The states n are
independent chains that share Δ and u; they are walked one after the other over the same (STEPS, CHANNELS) tile.

Where a batch has too few sequences to fill the GPU, a sequence is walked in parts at the same time. What a part does to
the state is one affine map too, h → exp(a·ΣΔ)·h + end: a first launch finds these, `carry_over_parts` composes them,
and the main launch starts every part from the state that enters it. The backward pass does the same against time.

Pixels are gathered through the route table on load and scattered on store. Bases of batch elements are 64-bit; offsets
inside one have the type OFFSET, 64-bit only where a map is that large, since wide addresses of whole tiles cost the
registers that the tiles need. For the same reason the number n is added to the base and not to the tile of offsets.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _then(decay_first, x_first, decay_second, x_second):
    """The affine map h → decay·h + x of `first`, followed by that of `second`."""
    return decay_first * decay_second, decay_second * x_first + x_second


@triton.jit
def _softplus(x):
    """softplus(x), to float32 rounding for every x and without overflow.

    softplus(x) = max(x, 0) + log1p(z), z = exp(−|x|) in (0, 1]. The hardware logarithm is inexact near 1, where small
    steps live; log1p(z) = 2·artanh(s), s = z / (2 + z) ≤ 1/3, whose series to s¹⁵ is exact to 1e−9.
    """
    z = tl.exp(-tl.abs(x))
    s = z / (2.0 + z)
    q = s * s
    series = 1.0 / 13 + q * (1.0 / 15)
    series = 1.0 / 11 + q * series
    series = 1.0 / 9 + q * series
    series = 1.0 / 7 + q * series
    series = 1.0 / 5 + q * series
    series = 1.0 / 3 + q * series
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + q * series)


@triton.jit
def _slope(delta):
    """Derivative of softplus where its value is delta: 1 − exp(−delta), by its series where that would cancel."""
    series = delta * (1 - delta / 2 * (1 - delta / 3 * (1 - delta / 4 * (1 - delta / 5 * (1 - delta / 6)))))
    return tl.where(delta < 0.25, series, 1.0 - tl.exp(-delta))


@triton.jit
def _program(K: tl.constexpr, n_sequences, n_parts, CHANNEL_BLOCKS: tl.constexpr):
    """This program's batch element, route, sequence, part and channel block.

    And its row of (batch, route, sequence), and of (batch, route, sequence, part).

    Channel blocks are neighbours, so that programs which read the same pixels' b, c and low-rank steps run together.
    """
    program = tl.program_id(0)
    part_row = program // CHANNEL_BLOCKS
    part = part_row % n_parts
    row = part_row // n_parts
    sequence = row % n_sequences
    route = (row // n_sequences) % K
    batch = row // n_sequences // K
    block = program % CHANNEL_BLOCKS
    return batch.to(tl.int64), route.to(tl.int64), sequence, part, block, row.to(tl.int64), part_row.to(tl.int64)


@triton.jit
def _visited(order_row, start, n_steps, n_pixels, STEPS: tl.constexpr, OFFSET: tl.constexpr):
    """Pixels of a chunk, whether each step exists (t < T), and whether it is on the map.

    Compiled graphs come here with tables that nothing has checked, and reading one first would make the GPU wait. A
    number that is no pixel therefore counts as a step outside the map, as −1 does: no table leads out of the tensors.
    """
    t = start + tl.arange(0, STEPS)
    exists = t < n_steps
    pixel = tl.load(order_row + t, mask=exists, other=-1)
    pixel = tl.where(pixel < n_pixels, pixel, -1).to(OFFSET)
    return pixel, exists, pixel >= 0


@triton.jit
def _step_sizes(dt, dt_pixel, weight, bias, pixel, exists, inside, d, on_d, D: tl.constexpr, RANK: tl.constexpr):
    """Δ = softplus(dt + bias), float32 (STEPS, CHANNELS).

    Low-rank steps are expanded here, one rank at a time, so that no more than this tile of them ever exists. A step
    outside the map has dt = 0 and still decays by softplus(bias); a step past the end has Δ = 0, which leaves the
    state as it is.
    """
    on_dt = pixel * dt_pixel
    if weight is None:
        raw = tl.load(dt + on_dt[:, None] + d[None, :], mask=inside[:, None] & on_d[None, :], other=0.0).to(tl.float32)
    else:
        raw = tl.zeros([exists.shape[0], d.shape[0]], tl.float32)
        for r in range(RANK):
            low_r = tl.load(dt + r + on_dt, mask=inside, other=0.0).to(tl.float32)
            raw += low_r[:, None] * tl.load(weight + r * D + d, mask=on_d, other=0.0)[None, :]
    return tl.where(exists[:, None], _softplus(raw + bias[None, :]), 0.0)


@triton.jit
def _row(tile, row, index):
    """Row `row` of a tile whose rows are numbered by `index`: registers cannot be indexed, a masked sum can."""
    return tl.sum(tl.where(index[:, None] == row, tile, 0.0), 0)


@triton.jit
def selective_scan_forward(
    # maps and tables; the last dimension of each is contiguous
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
    N_PADDED: tl.constexpr, SAVED_APART: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence; add y to its pixels, write the states at its end and between chunks.

    Without `y`, it only finds out what a part does to the state that enters it, h → exp(a·delta)·h + end: `states`
    takes `end`, (rows, parts, N, D), and `deltas` the sum of the part's Δ, (rows, parts, D).
    """
    batch, route, sequence, part, block, row, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    group = route * (D if MAP_CHANNELS > D else 0)  # route k reads channels from k·D on, or all of them
    u += batch * u_batch + group
    dt += batch * dt_batch + route * dt_route
    b += batch * b_batch + route * b_route
    if y is not None:
        c += batch * c_batch + route * c_route
        y += batch * y_batch + route * y_route
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    d = block * CHANNELS + tl.arange(0, CHANNELS)
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    step = tl.arange(0, STEPS)

    if dt_weight is not None:
        dt_weight += route * RANK * D
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)

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
    for start in range(first, stop, STEPS):
        if y is not None and states is not None and start > 0:
            saved = states + (row * n_saved + start // SAVED_APART - 1) * N * D
            tl.store(saved + by_state, state, mask=on_state & (start % SAVED_APART == 0))

        pixel, exists, inside = _visited(order, start, n_steps, n_pixels, STEPS, OFFSET)
        on_map = inside[:, None] & on_d[None, :]
        u_t = tl.load(u + pixel[:, None] * u_pixel + d[None, :], mask=on_map, other=0.0).to(tl.float32)
        delta = _step_sizes(dt, dt_pixel, dt_weight, bias, pixel, exists, inside, d, on_d, D, RANK)
        delta_u = delta * u_t
        if y is None:
            delta_sum += tl.sum(delta, 0)
        y_t = tl.zeros([STEPS, CHANNELS], tl.float32)
        if skip is not None:
            y_t = tl.load(skip + route * D + d, mask=on_d, other=0.0)[None, :] * u_t

        on_b, on_c = pixel * b_pixel, pixel * c_pixel
        for n in range(N):
            a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
            b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
            if y is not None:
                c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
            decay = tl.exp2(delta * a_n[None, :])
            enters = tl.where(step[:, None] == 0, decay * _row(state, n, n_index)[None, :], 0.0)
            _, h = tl.associative_scan((decay, delta_u * b_n[:, None] + enters), 0, _then)
            if y is not None:
                y_t += h * c_n[:, None]
            state = tl.where(n_index[:, None] == n, _row(h, STEPS - 1, step)[None, :], state)

        # Atomic, because other routes add to the same pixels at the same time, and even a single route may visit
        # a pixel twice: only the table's values could tell, and they are not known when the kernel is launched.
        if y is not None:
            tl.atomic_add(y + pixel[:, None] * y_pixel + d[None, :], y_t, mask=on_map, sem="relaxed")

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
    _, route, _, _, block, row, _ = _program(K, n_sequences, 1, CHANNEL_BLOCKS)
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


@triton.jit
def part_flows(
    # the gradient of the map, what gives Δ, and tables
    grad_y, dt, dt_weight, a, c, dt_bias, order,
    # results: what a part lets flow into the part before it (rows, parts, N, D), and the sums of its Δ (rows, parts, D)
    flows, deltas,
    dt_batch, dt_route, dt_pixel, c_batch, c_route, c_pixel, y_batch, y_route, y_pixel,
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """The gradient that reaches the state before a part from the part's own outputs (see `selective_scan_backward`)."""
    batch, route, sequence, part, block, _, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    grad_y += batch * y_batch + route * y_route
    dt += batch * dt_batch + route * dt_route
    c += batch * c_batch + route * c_route
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    d = block * CHANNELS + tl.arange(0, CHANNELS)
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    if dt_weight is not None:
        dt_weight += route * RANK * D
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)

    flow = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    delta_sum = tl.zeros([CHANNELS], tl.float32)
    first = part * part_steps
    n_chunks = tl.cdiv(tl.minimum(part_steps, n_steps - first), STEPS)
    for i in range(n_chunks):
        start = first + (n_chunks - 1 - i) * STEPS
        pixel, exists, inside = _visited(order, start, n_steps, n_pixels, STEPS, OFFSET)
        on_map = inside[:, None] & on_d[None, :]
        dy_t = tl.load(grad_y + pixel[:, None] * y_pixel + d[None, :], mask=on_map, other=0.0).to(tl.float32)
        delta = _step_sizes(dt, dt_pixel, dt_weight, bias, pixel, exists, inside, d, on_d, D, RANK)
        # Σ of Δ up to each step of the chunk: an output reaches the state before the chunk by exp(a·Σ).
        delta_before = tl.cumsum(delta, 0)
        delta_chunk = tl.sum(delta, 0)
        delta_sum += delta_chunk
        on_c = pixel * c_pixel
        for n in range(N):
            a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
            c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
            through = tl.exp2(delta_chunk * a_n) * _row(flow, n, n_index)
            own = tl.sum(tl.exp2(delta_before * a_n[None, :]) * dy_t * c_n[:, None], 0)
            flow = tl.where(n_index[:, None] == n, (own + through)[None, :], flow)

    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_state = n_index[:, None] * D + d[None, :]
    tl.store(flows + part_row * N * D + by_state, flow, mask=on_state)
    tl.store(deltas + part_row * D + d, delta_sum, mask=on_d)


@triton.jit
def selective_scan_backward(
    # incoming gradients, then what the forward pass read and saved
    grad_y, grad_final_state,
    u, dt, dt_weight, a, b, c, skip, dt_bias, order, initial_state, states,
    # what flows into the last state of each part, where a sequence has several: (rows, parts, N, D)
    carried,
    # results, float32; all but grad_initial are zeroed
    grad_u, grad_dt, grad_weight, grad_a, grad_b, grad_c, grad_skip, grad_bias, grad_initial,
    # strides between batch elements, routes and pixels; gradients are contiguous
    u_batch, u_pixel, dt_batch, dt_route, dt_pixel, b_batch, b_route, b_pixel, c_batch, c_route, c_pixel,
    y_batch, y_route, y_pixel,
    # sizes
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    MAP_CHANNELS: tl.constexpr, K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, RANK_PADDED: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence from the last to the first and add every gradient to its tensor.

    With g_t the gradient that reaches h_t, from its own output and from all later steps,

        g_t = dy_t c_t + decay_{t+1} g_{t+1}

    is again a chain of affine maps, scanned from the end. The states h_t of the chunk are scanned again from the
    state that the forward pass saved before it, and decay_t·h_{t−1} = h_t − x_t needs no shifted tile. Then

        da   = Σ_t g_t decay_t h_{t−1} Δ_t          dΔ_t = Σ_n g_t decay_t h_{t−1} a + u_t Σ_n g_t b_t
        db_t = Σ_d g_t Δ_t u_t,  dc_t = Σ_d dy_t h_t     du_t = Δ_t Σ_n g_t b_t + d dy_t
    """
    batch, route, sequence, part, block, row, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    grad_y += batch * y_batch + route * y_route
    group = route * (D if MAP_CHANNELS > D else 0)  # route k reads channels from k·D on, or all of them
    u += batch * u_batch + group
    dt += batch * dt_batch + route * dt_route
    b += batch * b_batch + route * b_route
    c += batch * c_batch + route * c_route
    STEP_WIDTH: tl.constexpr = D if dt_weight is None else RANK
    grad_u += batch * n_pixels * MAP_CHANNELS + group
    grad_dt += (batch * n_pixels * K + route) * STEP_WIDTH
    grad_b += (batch * n_pixels * K + route) * N
    grad_c += (batch * n_pixels * K + route) * N
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    d = block * CHANNELS + tl.arange(0, CHANNELS)
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    step = tl.arange(0, STEPS)

    if dt_weight is not None:
        dt_weight += route * RANK * D
        grad_weight += route * RANK * D
        r_index = tl.arange(0, RANK_PADDED)
        grad_weight_sum = tl.zeros([RANK_PADDED, CHANNELS], tl.float32)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)
    grad_bias_sum = tl.zeros([CHANNELS], tl.float32)
    grad_skip_sum = tl.zeros([CHANNELS], tl.float32)
    grad_a_sum = tl.zeros([N_PADDED, CHANNELS], tl.float32)

    # What flows into the last state of the chunk from the steps after it.
    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_channel = row * D * N + d[None, :] * N + n_index[:, None]
    flow = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    if carried is not None:
        at_end = part_row * N * D + n_index[:, None] * D + d[None, :]
        flow = tl.load(carried + at_end, mask=on_state, other=0.0)
    elif grad_final_state is not None:
        flow = tl.load(grad_final_state + by_channel, mask=on_state, other=0.0).to(tl.float32)
    n_chunks = tl.cdiv(n_steps, STEPS)
    first_chunk = part * (part_steps // STEPS)
    last_chunk = tl.minimum(first_chunk + part_steps // STEPS, n_chunks) - 1

    for i in range(last_chunk + 1 - first_chunk):
        chunk = last_chunk - i
        pixel, exists, inside = _visited(order, chunk * STEPS, n_steps, n_pixels, STEPS, OFFSET)
        on_map = inside[:, None] & on_d[None, :]
        u_t = tl.load(u + pixel[:, None] * u_pixel + d[None, :], mask=on_map, other=0.0).to(tl.float32)
        dy_t = tl.load(grad_y + pixel[:, None] * y_pixel + d[None, :], mask=on_map, other=0.0).to(tl.float32)
        delta = _step_sizes(dt, dt_pixel, dt_weight, bias, pixel, exists, inside, d, on_d, D, RANK)
        # Δ of the following steps, made again: shifting a tile moves it between threads, which costs more. It is 0, a
        # decay of 1, at the chunk's last step, because `flow` is already what reaches that state.
        next_pixel, next_exists, next_inside = _visited(order, chunk * STEPS + 1, n_steps, n_pixels, STEPS, OFFSET)
        next_exists &= step < STEPS - 1
        delta_following = _step_sizes(
            dt, dt_pixel, dt_weight, bias, next_pixel, next_exists, next_inside, d, on_d, D, RANK
        )

        grad_delta = tl.zeros([STEPS, CHANNELS], tl.float32)
        grad_b_sum = tl.zeros([STEPS, CHANNELS], tl.float32)  # Σ_n g b
        saved = states + (row * (n_chunks - 1) + chunk - 1) * N * D
        on_b, on_c, on_grad_b = pixel * b_pixel, pixel * c_pixel, pixel * (K * N)
        for n in range(N):
            a_n = tl.load(a + n * D + d, mask=on_d, other=0.0)
            b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
            c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
            h_before = tl.load(saved + n * D + d, mask=on_d & (chunk > 0), other=0.0)
            if initial_state is not None:
                at_start = initial_state + row * D * N + d * N + n
                h_before += tl.load(at_start, mask=on_d & (chunk == 0), other=0.0).to(tl.float32)

            decay = tl.exp2(delta * (a_n * LOG2E)[None, :])
            x = delta * u_t * b_n[:, None]
            enters = tl.where(step[:, None] == 0, decay * h_before[None, :], 0.0)
            _, h = tl.associative_scan((decay, x + enters), 0, _then)

            decay_following = tl.exp2(delta_following * (a_n * LOG2E)[None, :])
            enters = tl.where(step[:, None] == STEPS - 1, _row(flow, n, n_index)[None, :], 0.0)
            _, g = tl.associative_scan((decay_following, dy_t * c_n[:, None] + enters), 0, _then, reverse=True)
            flow = tl.where(n_index[:, None] == n, _row(g * decay, 0, step)[None, :], flow)

            tl.atomic_add(grad_c + n + on_grad_b, tl.sum(h * dy_t, 1), mask=inside, sem="relaxed")
            tl.atomic_add(grad_b + n + on_grad_b, tl.sum(g * delta * u_t, 1), mask=inside, sem="relaxed")
            grad_b_sum += g * b_n[:, None]
            g *= h - x  # g_t decay_t h_{t−1}
            grad_delta += g * a_n[None, :]
            grad_a_sum += tl.where(n_index[:, None] == n, tl.sum(g * delta, 0)[None, :], 0.0)

        grad_u_t = delta * grad_b_sum
        if skip is not None:
            grad_u_t += tl.load(skip + route * D + d, mask=on_d, other=0.0)[None, :] * dy_t
            grad_skip_sum += tl.sum(dy_t * u_t, 0)
        tl.atomic_add(grad_u + pixel[:, None] * MAP_CHANNELS + d[None, :], grad_u_t, mask=on_map, sem="relaxed")

        grad_raw = (grad_delta + u_t * grad_b_sum) * _slope(delta)
        grad_bias_sum += tl.sum(grad_raw, 0)
        on_grad_dt = pixel * (K * STEP_WIDTH)
        if dt_weight is None:
            tl.atomic_add(grad_dt + on_grad_dt[:, None] + d[None, :], grad_raw, mask=on_map, sem="relaxed")
        else:
            for r in range(RANK):
                low_r = tl.load(dt + r + pixel * dt_pixel, mask=inside, other=0.0).to(tl.float32)
                weight_r = tl.load(dt_weight + r * D + d, mask=on_d, other=0.0)
                grad_low = tl.sum(grad_raw * weight_r[None, :], 1)
                tl.atomic_add(grad_dt + r + on_grad_dt, grad_low, mask=inside, sem="relaxed")
                of_weight = tl.sum(grad_raw * low_r[:, None], 0)
                grad_weight_sum += tl.where(r_index[:, None] == r, of_weight[None, :], 0.0)

    if grad_initial is not None:
        tl.store(grad_initial + by_channel, flow, mask=on_state)
    # Parameters are shared by the batch and by the sequences of a route: one atomic sum per program.
    tl.atomic_add(grad_a + route * N * D + n_index[:, None] * D + d[None, :], grad_a_sum, mask=on_state, sem="relaxed")
    if skip is not None:
        tl.atomic_add(grad_skip + route * D + d, grad_skip_sum, mask=on_d, sem="relaxed")
    if dt_bias is not None:
        tl.atomic_add(grad_bias + route * D + d, grad_bias_sum, mask=on_d, sem="relaxed")
    if dt_weight is not None:
        on_weight = (r_index < RANK)[:, None] & on_d[None, :]
        tl.atomic_add(grad_weight + r_index[:, None] * D + d[None, :], grad_weight_sum, mask=on_weight, sem="relaxed")
