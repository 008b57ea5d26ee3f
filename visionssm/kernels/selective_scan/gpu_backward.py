# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the selective scan's backward pass; see `gpu_steps`."""

from __future__ import annotations

import triton
import triton.language as tl

from visionssm.kernels.selective_scan.gpu_steps import (
    LOG2E,
    backwards,
    exact_parts,
    load_tile,
    precise_product,
    program_place,
    raw_steps,
    row_of,
    softplus_excess,
    step_weights,
    sum_of_channels,
    then_and_before,
    visited_pixels,
    walk_chunk,
)


@triton.jit
def part_flows(
    # the gradient of the map, what gives Δ, and tables; c is None where it follows dt
    grad_y, dt, dt_weight, a, c, dt_bias, order,
    # results: what a part lets flow into the part before it (rows, parts, N, D), and the sums of its Δ (rows, parts, D)
    flows, deltas,
    dt_batch, dt_route, dt_pixel, c_batch, c_route, c_pixel, y_batch, y_route, y_pixel,
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, RANK_PADDED: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient that reaches the state before a part from the part's own outputs (see `selective_scan_backward`)."""
    batch, route, sequence, part, block, _, part_row = program_place(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    grad_y += batch * y_batch + route * y_route
    dt += batch * dt_batch + route * dt_route
    if c is None:
        c = dt + RANK + N
    else:
        c += batch * c_batch + route * c_route
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    d = tl.multiple_of(block * CHANNELS + tl.arange(0, CHANNELS), 1)
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    column, on_column, w1, w2, w3, bias = step_weights(
        dt, dt_weight, dt_bias, route, d, on_d, D, RANK, RANK_PADDED, PRECISION
    )

    flow = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    delta_sum = tl.zeros([CHANNELS], tl.float32)
    first = part * part_steps
    n_chunks = tl.cdiv(tl.minimum(part_steps, n_steps - first), STEPS)
    for i in tl.range(0, n_chunks, num_stages=1):
        start = first + (n_chunks - 1 - i) * STEPS
        pixel, exists, inside = visited_pixels(order, start, n_steps, n_pixels, STEPS, OFFSET)
        dy_t = load_tile(grad_y, pixel * y_pixel, inside, d, on_d).to(tl.float32)
        steps = load_tile(dt, pixel * dt_pixel, inside, column, on_column)
        raw = raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + softplus_excess(raw)
        # Σ of Δ up to each step of the chunk: an output reaches the state before the chunk by exp(a·Σ).
        delta_before = tl.cumsum(delta, 0)
        delta_chunk = tl.sum(delta, 0)
        delta_sum += delta_chunk
        on_c = pixel * (dt_pixel if c_pixel is None else c_pixel)
        for n in tl.range(0, N, num_stages=1):
            a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
            c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
            through = tl.exp2(delta_chunk * a_n) * row_of(flow, n, n_index)
            own = tl.sum(tl.exp2(delta_before * a_n[None, :]) * dy_t * c_n[:, None], 0)
            flow = tl.where(n_index[:, None] == n, (own + through)[None, :], flow)

    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_state = n_index[:, None] * D + d[None, :]
    tl.store(flows + part_row * N * D + by_state, flow, mask=on_state)
    tl.store(deltas + part_row * D + d, delta_sum, mask=on_d)


@triton.jit
def _states_between(
    dt, a, b, order, states, initial_state, between, u, w1, w2, w3, bias, row, part_block, n_blocks,
    u_pixel, dt_pixel, b_pixel, n_steps, n_pixels, d, on_d, column, on_column, on_between,
    D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
    CHUNKS: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk all chunks of a block but the last and write the state after each to `between`, (CHUNKS − 1, N, CHANNELS).

    The forward pass saves one state a block: the others would be as large as several maps where N is 16.
    """
    step = tl.arange(0, STEPS)
    saved = states + (row * (n_blocks - 1) + part_block - 1) * N * D
    for j in tl.range(0, CHUNKS - 1, num_stages=1):
        start = (part_block * CHUNKS + j) * STEPS
        pixel, exists, inside = visited_pixels(order, start, n_steps, n_pixels, STEPS, OFFSET)
        u_t = load_tile(u, pixel * u_pixel, inside, d, on_d).to(tl.float32)
        steps = load_tile(dt, pixel * dt_pixel, inside, column, on_column)
        raw = raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + softplus_excess(raw)
        delta_u = delta * u_t
        on_b = pixel * (dt_pixel if b_pixel is None else b_pixel)
        for n in tl.range(0, N, num_stages=1):
            before = tl.load(saved + n * D + d, mask=on_d & ((j == 0) & (part_block > 0)), other=0.0)
            before += tl.load(between + ((j - 1) * N + n) * CHANNELS + on_between, mask=on_d & (j > 0), other=0.0)
            if initial_state is not None:
                at_start = initial_state + row * D * N + d * N + n
                mask = on_d & ((j == 0) & (part_block == 0))
                before += tl.load(at_start, mask=mask, other=0.0).to(tl.float32)
            a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
            b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
            h = walk_chunk(tl.exp2(delta * a_n[None, :]), delta_u * b_n[:, None], before, step)
            tl.store(between + (j * N + n) * CHANNELS + on_between, row_of(h, STEPS - 1, step), mask=on_d)
        tl.debug_barrier()  # another thread may read what this one wrote


@triton.jit
def _grad_low(g1, g2, g3, w1, w2, w3, PRECISION: tl.constexpr):
    """g @ wᵀ to float32 accuracy, both in `exact_parts`: six products of bfloat16 parts leave out < 2⁻²⁴."""
    w1, w2, w3 = tl.trans(w1), tl.trans(w2), tl.trans(w3)
    if g1.dtype == tl.bfloat16:
        total = tl.dot(g1, w1)
        total = tl.dot(g1, w2, total)
        total = tl.dot(g2, w1, total)
        total = tl.dot(g2, w2, total)
        total = tl.dot(g1, w3, total)
        return tl.dot(g3, w1, total)
    else:
        return tl.dot(g1, w1, input_precision=PRECISION)


@triton.jit
def _of_state(
    n, a, b, c, on_b, on_c, inside, saved, between, initial_state, row, part_block, within, d, on_d, on_between,
    D: tl.constexpr, N: tl.constexpr, CHANNELS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """What the backward pass reads of the state number n in a chunk: a, b_t, c_t and the state before the chunk."""
    a_n = tl.load(a + n * D + d, mask=on_d, other=0.0)
    b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
    c_n = tl.load(c + n + on_c, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(saved + n * D + d, mask=on_d & ((within == 0) & (part_block > 0)), other=0.0)
    if CHUNKS > 1:
        before += tl.load(between + ((within - 1) * N + n) * CHANNELS + on_between, mask=on_d & (within > 0), other=0.0)
    if initial_state is not None:
        at_start = initial_state + row * D * N + d * N + n
        before += tl.load(at_start, mask=on_d & ((within == 0) & (part_block == 0)), other=0.0).to(tl.float32)
    return a_n, b_n, c_n, before


@triton.jit
def selective_scan_backward(
    # incoming gradients, then what the forward pass read and saved; b and c are None where they follow dt
    grad_y, grad_final_state,
    u, dt, dt_weight, a, b, c, skip, dt_bias, order, initial_state, states,
    # what flows into the last state of each part, where a sequence has several: (rows, parts, N, D)
    carried,
    # a program's states between the chunks of a block, (programs, chunks − 1, N, CHANNELS); None if they are the same
    between,
    # results, float32; all but grad_initial are zeroed; those of b and c are None where they follow dt's
    grad_u, grad_dt, grad_dt_weight, grad_a, grad_b, grad_c, grad_skip, grad_dt_bias, grad_initial,
    # strides between batch elements, routes and pixels; gradients are contiguous
    u_batch, u_pixel, dt_batch, dt_route, dt_pixel, b_batch, b_route, b_pixel, c_batch, c_route, c_pixel,
    y_batch, y_route, y_pixel,
    # sizes
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    MAP_CHANNELS: tl.constexpr, K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, RANK_PADDED: tl.constexpr, SAVED_APART: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence from the last to the first and add every gradient to its tensor.

    With g_t the gradient that reaches h_t, from its own output and from all later steps,

        g_t = dy_t c_t + decay_{t+1} g_{t+1}

    is again a chain of affine maps. G_t = decay_t g_t is scanned from the end, together with what enters each step
    from the later ones, G_{t+1}: no decay of another step is needed. The states h_t of the chunk are scanned again from
    the state before it, and decay_t·h_{t−1} = h_t − x_t needs no shifted tile. Then

        da   = Σ_t g_t decay_t h_{t−1} Δ_t          dΔ_t = Σ_n g_t decay_t h_{t−1} a + u_t Σ_n g_t b_t
        db_t = Σ_d g_t Δ_t u_t,  dc_t = Σ_d dy_t h_t     du_t = Δ_t Σ_n g_t b_t + d dy_t

    With APART, gradients of maps have a place for each step of each row (and, where channels are summed, each block of
    channels) instead of each pixel, and those of parameters one for each part of each row: nothing is added twice.
    """
    batch, route, sequence, part, block, row, part_row = program_place(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    CHUNKS: tl.constexpr = SAVED_APART // STEPS
    grad_y += batch * y_batch + route * y_route
    group = route * (D if MAP_CHANNELS > D else 0)  # route k reads channels from k·D on, or all of them
    u += batch * u_batch + group
    grad_u += row * n_steps * D if APART else batch * n_pixels * MAP_CHANNELS + group
    dt += batch * dt_batch + route * dt_route
    STEP_WIDTH: tl.constexpr = D if dt_weight is None else RANK
    ALONE: tl.constexpr = b is not None
    GRAD_WIDTH: tl.constexpr = STEP_WIDTH if ALONE else STEP_WIDTH + 2 * N
    GRAD_WIDTH_B: tl.constexpr = N if ALONE else GRAD_WIDTH
    # Between two pixels' gradients; dt's of its own channels is summed over no blocks.
    APART_U: tl.constexpr = D if APART else MAP_CHANNELS
    APART_DT: tl.constexpr = GRAD_WIDTH * ((1 if dt_weight is None else CHANNEL_BLOCKS) if APART else K)
    APART_B: tl.constexpr = GRAD_WIDTH_B * (CHANNEL_BLOCKS if APART else K)
    if APART:
        grad_dt += row * n_steps * APART_DT + (0 if dt_weight is None else block * GRAD_WIDTH)
    else:
        grad_dt += (batch * n_pixels * K + route) * GRAD_WIDTH
    if ALONE:
        b += batch * b_batch + route * b_route
        c += batch * c_batch + route * c_route
        on_gradients = row * n_steps * APART_B + block * N if APART else (batch * n_pixels * K + route) * N
        grad_b += on_gradients
        grad_c += on_gradients
    else:
        b = dt + RANK
        c = b + N
        grad_b = grad_dt + RANK
        grad_c = grad_b + N
    a += route * N * D
    order += (route * n_sequences + sequence) * n_steps

    d = tl.multiple_of(block * CHANNELS + tl.arange(0, CHANNELS), 1)  # see the forward kernel
    on_d = d < D
    n_index = tl.arange(0, N_PADDED)
    step = tl.arange(0, STEPS)

    column, on_column, w1, w2, w3, bias = step_weights(
        dt, dt_weight, dt_bias, route, d, on_d, D, RANK, RANK_PADDED, PRECISION
    )
    if dt_weight is not None:
        grad_weight_sum = tl.zeros([RANK_PADDED, CHANNELS], tl.float32)
    if skip is not None:
        skip_d = tl.load(skip + route * D + d, mask=on_d, other=0.0)
    grad_bias_sum = tl.zeros([CHANNELS], tl.float32)
    grad_skip_sum = tl.zeros([CHANNELS], tl.float32)
    grad_a_sum = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    owner = part_row if APART else route
    grad_a += owner * N * D

    # What flows into the last state of the chunk from the steps after it.
    on_state = (n_index < N)[:, None] & on_d[None, :]
    by_channel = row * D * N + d[None, :] * N + n_index[:, None]
    flow = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    if carried is not None:
        at_end = part_row * N * D + n_index[:, None] * D + d[None, :]
        flow = tl.load(carried + at_end, mask=on_state, other=0.0)
    elif grad_final_state is not None:
        flow = tl.load(grad_final_state + by_channel, mask=on_state, other=0.0).to(tl.float32)
    on_between = tl.multiple_of(tl.arange(0, CHANNELS), 1)
    if CHUNKS > 1:
        between += tl.program_id(0).to(tl.int64) * (CHUNKS * N * CHANNELS)
        flows = between + (CHUNKS - 1) * N * CHANNELS
        of_program = n_index[:, None] * CHANNELS + on_between[None, :]
        tl.store(flows + of_program, flow, mask=(n_index < N)[:, None])
    n_blocks = tl.cdiv(n_steps, SAVED_APART)
    first_block = part * (part_steps // SAVED_APART)
    last_block = tl.minimum(first_block + part_steps // SAVED_APART, n_blocks) - 1

    for i in tl.range(0, (last_block + 1 - first_block) * CHUNKS, num_stages=1):
        part_block = last_block - i // CHUNKS
        within = CHUNKS - 1 - i % CHUNKS
        if CHUNKS > 1:  # known when compiled, and the next is not: `and` would compile the call
            if within == CHUNKS - 1:
                _states_between(
                    dt, a, b, order, states, initial_state, between, u, w1, w2, w3, bias, row, part_block, n_blocks,
                    u_pixel, dt_pixel, b_pixel, n_steps, n_pixels, d, on_d, column, on_column, on_between,
                    D, N, RANK, STEPS, CHANNELS, CHUNKS, OFFSET, PRECISION,
                )  # fmt: skip
            tl.debug_barrier()  # another thread may read what this one wrote
        start = (part_block * CHUNKS + within) * STEPS
        pixel, exists, inside = visited_pixels(order, start, n_steps, n_pixels, STEPS, OFFSET)
        on_map = inside[:, None] & on_d[None, :]
        u_t = load_tile(u, pixel * u_pixel, inside, d, on_d).to(tl.float32)
        dy_t = load_tile(grad_y, pixel * y_pixel, inside, d, on_d).to(tl.float32)
        steps = load_tile(dt, pixel * dt_pixel, inside, column, on_column)
        if b_pixel is None:
            on_b = pixel * dt_pixel
            on_c = on_b
        else:
            on_b, on_c = pixel * b_pixel, pixel * c_pixel
        saved = states + (row * (n_blocks - 1) + part_block - 1) * N * D
        if N == 1:  # asked for before the product below, whose barriers would hold them up
            a_n, b_n, c_n, before = _of_state(
                0, a, b, c, on_b, on_c, inside, saved, between, initial_state, row, part_block, within, d, on_d,
                on_between, D, N, CHANNELS, CHUNKS,
            )  # fmt: skip

        raw = raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        excess = softplus_excess(raw)
        delta = tl.maximum(raw, 0.0) + excess
        slope = tl.exp2((tl.minimum(raw, 0.0) - excess) * LOG2E)
        delta_u = delta * u_t

        grad_delta = tl.full([STEPS, CHANNELS], -0.0, tl.float32)  # −0, to which adding is nothing
        grad_b_sum = tl.full([STEPS, CHANNELS], -0.0, tl.float32)  # Σ_n g b
        place = (start + step).to(OFFSET) if APART else pixel
        on_grad_b = place * APART_B
        for n in tl.range(0, N, num_stages=1):
            if N > 1:
                a_n, b_n, c_n, before = _of_state(
                    n, a, b, c, on_b, on_c, inside, saved, between, initial_state, row, part_block, within, d, on_d,
                    on_between, D, N, CHANNELS, CHUNKS,
                )  # fmt: skip
            decay = tl.exp2(delta * (a_n * LOG2E)[None, :])
            x = delta_u * b_n[:, None]
            h = walk_chunk(decay, x, before, step)

            g = dy_t * c_n[:, None]
            flow_n = tl.load(flows + n * CHANNELS + on_between) if CHUNKS > 1 else row_of(flow, n, n_index)
            g = tl.where(step[:, None] == STEPS - 1, g + flow_n[None, :], g)
            one = tl.full([STEPS, CHANNELS], 1.0, tl.float32)
            none = tl.full([STEPS, CHANNELS], -0.0, tl.float32)
            turned = backwards(decay, PRECISION)
            _, entering, _, later = tl.associative_scan(
                (turned, turned * backwards(g, PRECISION), one, none), 0, then_and_before
            )
            g += backwards(later, PRECISION)
            flow_n = row_of(entering, STEPS - 1, step)
            if CHUNKS > 1:
                tl.store(flows + n * CHANNELS + on_between, flow_n)
            else:
                flow = tl.where(n_index[:, None] == n, flow_n[None, :], flow)

            tl.atomic_add(grad_c + n + on_grad_b, sum_of_channels(h * dy_t, PRECISION), mask=inside, sem="relaxed")
            tl.atomic_add(grad_b + n + on_grad_b, sum_of_channels(g * delta_u, PRECISION), mask=inside, sem="relaxed")
            grad_b_sum += g * b_n[:, None]
            g *= h - x  # g_t decay_t h_{t−1}
            grad_delta += g * a_n[None, :]
            grad_a_n = tl.sum(g * delta, 0)
            if CHUNKS > 1:
                tl.atomic_add(grad_a + n * D + d, grad_a_n, mask=on_d, sem="relaxed")
            else:
                grad_a_sum += tl.where(n_index[:, None] == n, grad_a_n[None, :], 0.0)

        grad_u_t = delta * grad_b_sum
        if skip is not None:
            grad_u_t += skip_d[None, :] * dy_t
            grad_skip_sum += tl.sum(dy_t * u_t, 0)
        tl.atomic_add(grad_u + place[:, None] * APART_U + d[None, :], grad_u_t, mask=on_map, sem="relaxed")

        grad_raw = (grad_delta + u_t * grad_b_sum) * slope
        grad_bias_sum += tl.sum(grad_raw, 0)
        on_grad_dt = place[:, None] * APART_DT + column[None, :]
        if dt_weight is None:
            tl.atomic_add(grad_dt + on_grad_dt, grad_raw, mask=on_map, sem="relaxed")
        else:
            g1, g2, g3 = exact_parts(grad_raw, steps.dtype, PRECISION)
            grad_low = _grad_low(g1, g2, g3, w1, w2, w3, PRECISION)
            on_low = inside[:, None] & on_column[None, :]
            tl.atomic_add(grad_dt + on_grad_dt, grad_low, mask=on_low, sem="relaxed")
            grad_weight_sum = precise_product(tl.trans(steps), g1, g2, g3, grad_weight_sum, PRECISION)

    if grad_initial is not None:
        if CHUNKS > 1:
            tl.debug_barrier()
            flow = tl.load(flows + of_program, mask=(n_index < N)[:, None], other=0.0)
        tl.store(grad_initial + by_channel, flow, mask=on_state)
    # Parameters are shared by the batch and by the sequences of a route: one atomic sum per program.
    if CHUNKS == 1:
        tl.atomic_add(grad_a + n_index[:, None] * D + d[None, :], grad_a_sum, mask=on_state, sem="relaxed")
    if skip is not None:
        tl.atomic_add(grad_skip + owner * D + d, grad_skip_sum, mask=on_d, sem="relaxed")
    if dt_bias is not None:
        tl.atomic_add(grad_dt_bias + owner * D + d, grad_bias_sum, mask=on_d, sem="relaxed")
    if dt_weight is not None:
        on_weight = on_column[:, None] & on_d[None, :]
        by_rank = column[:, None] * D + d[None, :]
        tl.atomic_add(grad_dt_weight + owner * RANK * D + by_rank, grad_weight_sum, mask=on_weight, sem="relaxed")
