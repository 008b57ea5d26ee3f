# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the selective scan: one program walks a part of one sequence for a block of channels.

Along a sequence the state of every (channel d, state n) is a chain of affine maps h → decay_t·h + x_t with
decay_t = exp(Δ_t a), x_t = Δ_t b_t u_t. Affine maps compose associatively, so a chunk of STEPS steps is one scan, and
only the state at its end is carried to the next chunk, in registers and in float32. The states n are independent chains
that share Δ and u; they are walked one after the other over the same (STEPS, CHANNELS) tile.

A warp holds all STEPS steps of 32 channels: channels lie across its lanes, time in registers, so that a scan is a chain
of multiply-adds without shuffles, shared memory or barriers, and maps are read and written 32 neighbours at a time.
Low-rank step sizes are expanded by tensor cores, low (STEPS, R) @ weight (R, CHANNELS); `_time_in_registers` brings
the product back to that layout before anything else is computed from it. What a chunk reads of the maps is asked for
before the chunk before it is computed, because few warps are there to hide the way to memory.

Where a batch has too few sequences to fill the GPU, a sequence is walked in parts at the same time. What a part does to
the state is one affine map too, h → exp(a·ΣΔ)·h + end: a first launch finds these, `carry_over_parts` composes them,
and the main launch starts every part from the state that enters it. The backward pass does the same against time.

Pixels are gathered through the route table on load and scattered on store. Bases of batch elements are 64-bit; offsets
inside one have the type OFFSET, 64-bit only where a map is that large, since wide addresses of whole tiles cost the
registers that the tiles need. For the same reason the number n is added to the base and not to the tile of offsets.
Where dt, b and c are slices of one projected tensor, `b` and `c` are None and follow dt in memory, so that one offset
reaches all three.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
UNROLLED_STATES = tl.constexpr(16)  # more states than that are a loop, which compiles faster than it runs


@triton.jit
def _then(decay_first, x_first, decay_second, x_second):
    """The affine map h → decay·h + x of `first`, followed by that of `second`."""
    return decay_first * decay_second, decay_second * x_first + x_second


@triton.jit
def _then_and_before(decay_first, x_first, kept_first, y_first, decay_second, x_second, kept_second, y_second):
    """`_then`, and the same without the last map of the chain: what a scan says of all maps before each."""
    return (
        decay_first * decay_second,
        decay_second * x_first + x_second,
        decay_first * kept_second,
        kept_second * x_first + y_second,
    )


@triton.jit
def _first(x, y):
    return x


@triton.jit
def _time_in_registers(x, PRECISION: tl.constexpr):
    """x itself, in the layout of the maps: a scan over one element is nothing, but it keeps no layout of a product.

    Left out where it would only cost time: in interpreters, and on AMD's GPUs, whose warps hold time in two lanes.
    """
    if PRECISION == "ieee":
        return x
    return tl.reshape(tl.associative_scan(tl.expand_dims(x, 1), 1, _first), [x.shape[0], x.shape[1]])


@triton.jit
def _sum_of_channels(x, PRECISION: tl.constexpr):
    """Σ_d of (STEPS, CHANNELS): transposed first, so that most of a sum lies in one lane."""
    return tl.sum(_time_in_registers(tl.trans(x), PRECISION), 0)


@triton.jit
def _excess(x):
    """log(1 + exp(−|x|)), with which softplus(x) is max(x, 0) + excess and log(softplus'(x)) is min(x, 0) − excess.

    log1p(z)/z for z in (0, 1] is a polynomial of degree 8, off by 3e−8 at most (fitted to Chebyshev points with weights
    that even out the relative error): the hardware logarithm is inexact near 1, where small steps live.
    """
    z = tl.exp2(tl.abs(x) * -LOG2E)
    series = -0.029505213722586632 + z * 0.0052326880395412445
    series = 0.07822591066360474 + z * series
    series = -0.13663242757320404 + z * series
    series = 0.19106005132198334 + z * series
    series = -0.2484298199415207 + z * series
    series = 0.3331909775733948 + z * series
    series = -0.4999949336051941 + z * series
    series = 0.9999999403953552 + z * series
    return z * series


@triton.jit
def _parts_of(x, other, PRECISION: tl.constexpr):
    """Three bfloat16 numbers whose sum is x to float32's last bit; x itself if the other factor is not as coarse.

    Interpreters and AMD's compiler are given float32 factors only, with the precision that they know.
    """
    if other == tl.bfloat16 and PRECISION != "ieee":
        first = x.to(tl.bfloat16)
        rest = x - first.to(tl.float32)
        second = rest.to(tl.bfloat16)
        return first, second, (rest - second.to(tl.float32)).to(tl.bfloat16)
    else:
        return x, x, x


@triton.jit
def _product(x, y1, y2, y3, total, PRECISION: tl.constexpr):
    """total + x @ y to float32 accuracy, y in `_parts_of`: exact bfloat16 factors, or x in parts of tensor cores."""
    if y1.dtype == tl.bfloat16:
        total = tl.dot(x, y1, total)
        total = tl.dot(x, y2, total)
        return tl.dot(x, y3, total)
    else:
        return tl.dot(x.to(tl.float32), y1, total, input_precision=PRECISION)


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
    exists = (t >= 0) & (t < n_steps)
    pixel = tl.load(order_row + t, mask=exists, other=-1)
    inside = (pixel >= 0) & (pixel < n_pixels)
    return pixel.to(OFFSET), exists, inside


@triton.jit
def _tile(base, rows, inside, columns, on_columns):
    """Rows of a map at the pixels that a chunk visits, zeros outside; as they lie in memory."""
    return tl.load(base + rows[:, None] + columns[None, :], mask=inside[:, None] & on_columns[None, :], other=0.0)


@triton.jit
def _raw_steps(steps, w1, w2, w3, bias, exists, RANK: tl.constexpr, PRECISION: tl.constexpr):
    """dt + bias, float32 (STEPS, CHANNELS), from dt itself or from its low-rank factor.

    A step outside the map has dt = 0 and still decays by softplus(bias); a step past the end has Δ = softplus(−∞) = 0,
    which leaves the state as it is.
    """
    if RANK == 0:
        raw = steps.to(tl.float32)
    else:
        zero = tl.zeros([steps.shape[0], bias.shape[0]], tl.float32)
        raw = _time_in_registers(_product(steps, w1, w2, w3, zero, PRECISION), PRECISION)
    return tl.where(exists[:, None], raw + bias[None, :], float("-inf"))


@triton.jit
def _row(tile, row, index):
    """Row `row` of a tile whose rows are numbered by `index`: registers cannot be indexed, a masked sum can."""
    return tl.sum(tl.where(index[:, None] == row, tile, 0.0), 0)


@triton.jit
def _walked(decay, x, before, step):
    """h_t of a chunk, (STEPS, CHANNELS), from the state before it."""
    x = tl.where(step[:, None] == 0, decay * before[None, :] + x, x)
    _, h = tl.associative_scan((decay, x), 0, _then)
    return h


@triton.jit
def _one_state(n, state, delta, delta_u, a, b, on_b, inside, d, on_d, step, n_index, D: tl.constexpr):
    """The states of number n in a chunk, and the tile of carried states with the last of them."""
    a_n = tl.load(a + n * D + d, mask=on_d, other=0.0) * LOG2E
    b_n = tl.load(b + n + on_b, mask=inside, other=0.0).to(tl.float32)
    h = _walked(tl.exp2(delta * a_n[None, :]), delta_u * b_n[:, None], _row(state, n, n_index), step)
    last = _row(h, step.shape[0] - 1, step)
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
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence; add y to its pixels, write the states at its end and between chunks.

    Without `y`, it only finds out what a part does to the state that enters it, h → exp(a·delta)·h + end: `states`
    takes `end`, (rows, parts, N, D), and `deltas` the sum of the part's Δ, (rows, parts, D).
    """
    batch, route, sequence, part, block, row, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
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

    if dt_weight is None:
        column, on_column = d, on_d
        w1, w2, w3 = d, d, d
    else:
        column = tl.arange(0, RANK_PADDED)
        on_column = column < RANK
        weight = _tile(dt_weight + route * RANK * D, column * D, on_column, d, on_d)
        w1, w2, w3 = _parts_of(weight, dt.dtype.element_ty, PRECISION)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)
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
    pixel, exists, inside = _visited(order, first, n_steps, n_pixels, STEPS, OFFSET)
    u_t = _tile(u, pixel * u_pixel, inside, d, on_d)
    steps = _tile(dt, pixel * dt_pixel, inside, column, on_column)
    for start in tl.range(first, stop, STEPS, num_stages=1):
        next_pixel, _, next_inside = _visited(order, start + STEPS, n_steps, n_pixels, STEPS, OFFSET)
        next_u = _tile(u, next_pixel * u_pixel, next_inside, d, on_d)
        next_steps = _tile(dt, next_pixel * dt_pixel, next_inside, column, on_column)
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

        raw = _raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + _excess(raw)
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
            tl.atomic_add(y + pixel[:, None] * y_pixel + d[None, :], y_t, mask=on_map, sem="relaxed")
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
    batch, route, sequence, part, block, _, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
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
    if dt_weight is None:
        column, on_column = d, on_d
        w1, w2, w3 = d, d, d
    else:
        column = tl.arange(0, RANK_PADDED)
        on_column = column < RANK
        weight = _tile(dt_weight + route * RANK * D, column * D, on_column, d, on_d)
        w1, w2, w3 = _parts_of(weight, dt.dtype.element_ty, PRECISION)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)

    flow = tl.zeros([N_PADDED, CHANNELS], tl.float32)
    delta_sum = tl.zeros([CHANNELS], tl.float32)
    first = part * part_steps
    n_chunks = tl.cdiv(tl.minimum(part_steps, n_steps - first), STEPS)
    for i in tl.range(0, n_chunks, num_stages=1):
        start = first + (n_chunks - 1 - i) * STEPS
        pixel, exists, inside = _visited(order, start, n_steps, n_pixels, STEPS, OFFSET)
        dy_t = _tile(grad_y, pixel * y_pixel, inside, d, on_d).to(tl.float32)
        steps = _tile(dt, pixel * dt_pixel, inside, column, on_column)
        raw = _raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + _excess(raw)
        # Σ of Δ up to each step of the chunk: an output reaches the state before the chunk by exp(a·Σ).
        delta_before = tl.cumsum(delta, 0)
        delta_chunk = tl.sum(delta, 0)
        delta_sum += delta_chunk
        on_c = pixel * (dt_pixel if c_pixel is None else c_pixel)
        for n in tl.range(0, N, num_stages=1):
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
        pixel, exists, inside = _visited(order, start, n_steps, n_pixels, STEPS, OFFSET)
        u_t = _tile(u, pixel * u_pixel, inside, d, on_d).to(tl.float32)
        steps = _tile(dt, pixel * dt_pixel, inside, column, on_column)
        raw = _raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        delta = tl.maximum(raw, 0.0) + _excess(raw)
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
            h = _walked(tl.exp2(delta * a_n[None, :]), delta_u * b_n[:, None], before, step)
            tl.store(between + (j * N + n) * CHANNELS + on_between, _row(h, STEPS - 1, step), mask=on_d)
        tl.debug_barrier()  # another thread may read what this one wrote


@triton.jit
def _grad_low(g1, g2, g3, w1, w2, w3, PRECISION: tl.constexpr):
    """g @ wᵀ to float32 accuracy, both in `_parts_of`: six products of bfloat16 parts leave out what is below 2⁻²⁴."""
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
    grad_u, grad_dt, grad_weight, grad_a, grad_b, grad_c, grad_skip, grad_bias, grad_initial,
    # strides between batch elements, routes and pixels; gradients are contiguous
    u_batch, u_pixel, dt_batch, dt_route, dt_pixel, b_batch, b_route, b_pixel, c_batch, c_route, c_pixel,
    y_batch, y_route, y_pixel,
    # sizes
    n_pixels, n_sequences, n_steps, n_parts, part_steps,
    MAP_CHANNELS: tl.constexpr, K: tl.constexpr, D: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, CHANNEL_BLOCKS: tl.constexpr,
    N_PADDED: tl.constexpr, RANK_PADDED: tl.constexpr, SAVED_APART: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk the chunks of a part of one sequence from the last to the first and add every gradient to its tensor.

    With g_t the gradient that reaches h_t, from its own output and from all later steps,

        g_t = dy_t c_t + decay_{t+1} g_{t+1}

    is again a chain of affine maps. G_t = decay_t g_t is scanned from the end, together with what enters each step
    from the later ones, G_{t+1}: no decay of another step is needed. The states h_t of the chunk are scanned again from
    the state before it, and decay_t·h_{t−1} = h_t − x_t needs no shifted tile. Then

        da   = Σ_t g_t decay_t h_{t−1} Δ_t          dΔ_t = Σ_n g_t decay_t h_{t−1} a + u_t Σ_n g_t b_t
        db_t = Σ_d g_t Δ_t u_t,  dc_t = Σ_d dy_t h_t     du_t = Δ_t Σ_n g_t b_t + d dy_t
    """
    batch, route, sequence, part, block, row, part_row = _program(K, n_sequences, n_parts, CHANNEL_BLOCKS)
    CHUNKS: tl.constexpr = SAVED_APART // STEPS
    grad_y += batch * y_batch + route * y_route
    group = route * (D if MAP_CHANNELS > D else 0)  # route k reads channels from k·D on, or all of them
    u += batch * u_batch + group
    grad_u += batch * n_pixels * MAP_CHANNELS + group
    dt += batch * dt_batch + route * dt_route
    STEP_WIDTH: tl.constexpr = D if dt_weight is None else RANK
    ALONE: tl.constexpr = b is not None
    GRAD_WIDTH: tl.constexpr = STEP_WIDTH if ALONE else STEP_WIDTH + 2 * N
    GRAD_WIDTH_B: tl.constexpr = N if ALONE else GRAD_WIDTH
    grad_dt += (batch * n_pixels * K + route) * GRAD_WIDTH
    if ALONE:
        b += batch * b_batch + route * b_route
        c += batch * c_batch + route * c_route
        grad_b += (batch * n_pixels * K + route) * N
        grad_c += (batch * n_pixels * K + route) * N
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

    if dt_weight is None:
        column, on_column = d, on_d
        w1, w2, w3 = d, d, d
    else:
        column = tl.arange(0, RANK_PADDED)
        on_column = column < RANK
        weight = _tile(dt_weight + route * RANK * D, column * D, on_column, d, on_d)
        w1, w2, w3 = _parts_of(weight, dt.dtype.element_ty, PRECISION)
        grad_weight_sum = tl.zeros([RANK_PADDED, CHANNELS], tl.float32)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)
    if skip is not None:
        skip_d = tl.load(skip + route * D + d, mask=on_d, other=0.0)
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
    on_between = tl.multiple_of(tl.arange(0, CHANNELS), 1)
    if CHUNKS > 1:
        between += tl.program_id(0).to(tl.int64) * ((CHUNKS - 1) * N * CHANNELS)
    n_blocks = tl.cdiv(n_steps, SAVED_APART)
    first_block = part * (part_steps // SAVED_APART)
    last_block = tl.minimum(first_block + part_steps // SAVED_APART, n_blocks) - 1

    for i in tl.range(0, (last_block + 1 - first_block) * CHUNKS, num_stages=1):
        part_block = last_block - i // CHUNKS
        within = CHUNKS - 1 - i % CHUNKS
        if CHUNKS > 1:  # known when compiled, and the next is not: `and` would compile the call  # noqa: SIM102
            if within == CHUNKS - 1:
                _states_between(
                    dt, a, b, order, states, initial_state, between, u, w1, w2, w3, bias, row, part_block, n_blocks,
                    u_pixel, dt_pixel, b_pixel, n_steps, n_pixels, d, on_d, column, on_column, on_between,
                    D, N, RANK, STEPS, CHANNELS, CHUNKS, OFFSET, PRECISION,
                )  # fmt: skip
        start = (part_block * CHUNKS + within) * STEPS
        pixel, exists, inside = _visited(order, start, n_steps, n_pixels, STEPS, OFFSET)
        on_map = inside[:, None] & on_d[None, :]
        u_t = _tile(u, pixel * u_pixel, inside, d, on_d).to(tl.float32)
        dy_t = _tile(grad_y, pixel * y_pixel, inside, d, on_d).to(tl.float32)
        steps = _tile(dt, pixel * dt_pixel, inside, column, on_column)
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

        raw = _raw_steps(steps, w1, w2, w3, bias, exists, RANK, PRECISION)
        excess = _excess(raw)
        delta = tl.maximum(raw, 0.0) + excess
        slope = tl.exp2((tl.minimum(raw, 0.0) - excess) * LOG2E)
        delta_u = delta * u_t

        grad_delta = tl.full([STEPS, CHANNELS], -0.0, tl.float32)  # −0, to which adding is nothing
        grad_b_sum = tl.full([STEPS, CHANNELS], -0.0, tl.float32)  # Σ_n g b
        on_grad_b = pixel * (K * GRAD_WIDTH_B)
        for n in tl.range(0, N, num_stages=1):
            if N > 1:
                a_n, b_n, c_n, before = _of_state(
                    n, a, b, c, on_b, on_c, inside, saved, between, initial_state, row, part_block, within, d, on_d,
                    on_between, D, N, CHANNELS, CHUNKS,
                )  # fmt: skip
            decay = tl.exp2(delta * (a_n * LOG2E)[None, :])
            x = delta_u * b_n[:, None]
            h = _walked(decay, x, before, step)

            g = dy_t * c_n[:, None]
            g = tl.where(step[:, None] == STEPS - 1, g + _row(flow, n, n_index)[None, :], g)
            one = tl.full([STEPS, CHANNELS], 1.0, tl.float32)
            none = tl.full([STEPS, CHANNELS], -0.0, tl.float32)
            _, entering, _, later = tl.associative_scan(
                (decay, decay * g, one, none), 0, _then_and_before, reverse=True
            )
            g += later
            flow = tl.where(n_index[:, None] == n, _row(entering, 0, step)[None, :], flow)

            tl.atomic_add(grad_c + n + on_grad_b, _sum_of_channels(h * dy_t, PRECISION), mask=inside, sem="relaxed")
            tl.atomic_add(grad_b + n + on_grad_b, _sum_of_channels(g * delta_u, PRECISION), mask=inside, sem="relaxed")
            grad_b_sum += g * b_n[:, None]
            g *= h - x  # g_t decay_t h_{t−1}
            grad_delta += g * a_n[None, :]
            grad_a_sum += tl.where(n_index[:, None] == n, tl.sum(g * delta, 0)[None, :], 0.0)

        grad_u_t = delta * grad_b_sum
        if skip is not None:
            grad_u_t += skip_d[None, :] * dy_t
            grad_skip_sum += tl.sum(dy_t * u_t, 0)
        tl.atomic_add(grad_u + pixel[:, None] * MAP_CHANNELS + d[None, :], grad_u_t, mask=on_map, sem="relaxed")

        grad_raw = (grad_delta + u_t * grad_b_sum) * slope
        grad_bias_sum += tl.sum(grad_raw, 0)
        on_grad_dt = pixel[:, None] * (K * GRAD_WIDTH) + column[None, :]
        if dt_weight is None:
            tl.atomic_add(grad_dt + on_grad_dt, grad_raw, mask=on_map, sem="relaxed")
        else:
            g1, g2, g3 = _parts_of(grad_raw, steps.dtype, PRECISION)
            grad_low = _grad_low(g1, g2, g3, w1, w2, w3, PRECISION)
            on_low = inside[:, None] & on_column[None, :]
            tl.atomic_add(grad_dt + on_grad_dt, grad_low, mask=on_low, sem="relaxed")
            grad_weight_sum = _product(tl.trans(steps), g1, g2, g3, grad_weight_sum, PRECISION)

    if grad_initial is not None:
        tl.store(grad_initial + by_channel, flow, mask=on_state)
    # Parameters are shared by the batch and by the sequences of a route: one atomic sum per program.
    tl.atomic_add(grad_a + route * N * D + n_index[:, None] * D + d[None, :], grad_a_sum, mask=on_state, sem="relaxed")
    if skip is not None:
        tl.atomic_add(grad_skip + route * D + d, grad_skip_sum, mask=on_d, sem="relaxed")
    if dt_bias is not None:
        tl.atomic_add(grad_bias + route * D + d, grad_bias_sum, mask=on_d, sem="relaxed")
    if dt_weight is not None:
        on_weight = on_column[:, None] & on_d[None, :]
        by_rank = column[:, None] * D + d[None, :]
        tl.atomic_add(grad_weight + route * RANK * D + by_rank, grad_weight_sum, mask=on_weight, sem="relaxed")
