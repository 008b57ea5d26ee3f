# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of state-space duality in chunks of Q steps: matrix products inside a chunk, a state between chunks.

With c_t the running sum of log decays inside a chunk, the decay from step s to t is exp(c_t − c_s), never above the
product that it stands for; it is formed from c's parts (`coarse`, a multiple of 1/64 whose differences are exact in
float32, and `fine`), so that a large decay early in a chunk costs later steps no accuracy.

Tables per step and head — dt, coarse, fine, weights — are float32 of shape (B, chunks, H, Q), zero past the end of the
sequence, where maps read as zeros too. Products of inputs with inputs run in the inputs' dtype; products with computed
values in float32 cut into bfloat16 parts (PRECISION: six products for float32 inputs, three for half precision), which
tensor cores of NVIDIA and AMD compute and whose range is float32's.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _product(x, y, total, PRECISION: tl.constexpr):
    """total + x y, in float32 unless both have the same half precision. PRECISION ieee: always in float32."""
    if x.dtype == y.dtype and PRECISION != "ieee":
        return tl.dot(x, y, total, input_precision=PRECISION)
    return tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision=PRECISION)


@triton.jit
def _rows(base, stride, step, n_steps, column, WIDTH: tl.constexpr):
    """A (steps, columns) tile of a map whose last dimension is contiguous; zeros outside."""
    inside = (step < n_steps)[:, None] & (column < WIDTH)[None, :]
    return tl.load(base + step[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _decays(coarse, fine, table, index):
    """exp(c_i − c_j) for j ≤ i, else 0: (Q, Q)."""
    coarse_t, fine_t = tl.load(coarse + table + index), tl.load(fine + table + index)
    exponent = (coarse_t[:, None] - coarse_t[None, :]) + (fine_t[:, None] - fine_t[None, :])
    return tl.exp(tl.where(index[:, None] >= index[None, :], exponent, float("-inf")))


@triton.jit
def ssd_chunk_states(
    left, right, weight, states,
    left_batch, left_step, left_group, right_batch, right_step, right_head,
    n_steps, n_chunks,
    H: tl.constexpr, GROUP_HEADS: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """states[n, p] = Σ_t left[t, n] weight[t] right[t, p] of each chunk and head, a block of n and p per program."""
    program = tl.program_id(0)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    N_BLOCKS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    p = program % P_BLOCKS * BLOCK_P + tl.arange(0, BLOCK_P)
    n = program // P_BLOCKS % N_BLOCKS * BLOCK_N + tl.arange(0, BLOCK_N)
    row = (program // (P_BLOCKS * N_BLOCKS)).to(tl.int64)  # of (batch, chunk, head)
    head, chunk, batch = row % H, row // H % n_chunks, row // H // n_chunks
    index = tl.arange(0, Q)
    step = chunk * Q + index

    left_tile = _rows(left + batch * left_batch + head // GROUP_HEADS * left_group, left_step, step, n_steps, n, N)
    right_tile = _rows(right + batch * right_batch + head * right_head, right_step, step, n_steps, p, P)
    weighted = right_tile.to(tl.float32) * tl.load(weight + row * Q + index)[:, None]
    sums = _product(tl.trans(left_tile), weighted, tl.zeros([BLOCK_N, BLOCK_P], tl.float32), PRECISION)
    inside = (n < N)[:, None] & (p < P)[None, :]
    tl.store(states + row * N * P + n[:, None] * P + p[None, :], sums, mask=inside)


@triton.jit
def ssd_pass_states(
    states, decay, start, end,
    n_chunks,
    H: tl.constexpr, N: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace what each chunk adds to the state by the state before it (REVERSE: what flows in after it).

    start, end: (B, H, P, N), the state before the first chunk, or None for zeros, and after the last.
    """
    program = tl.program_id(0)
    BLOCKS: tl.constexpr = (N * P + BLOCK - 1) // BLOCK
    row = (program // BLOCKS).to(tl.int64)  # of (batch, head)
    element = program % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = element < N * P
    transposed = row * N * P + element % P * N + element // P
    state = tl.zeros([BLOCK], tl.float32)
    if start is not None:
        state = tl.load(start + transposed, mask=inside, other=0.0).to(tl.float32)
    for i in range(n_chunks):
        chunk = i
        if REVERSE:
            chunk = n_chunks - 1 - i
        place = (row // H * n_chunks + chunk) * H + row % H
        added = tl.load(states + place * N * P + element, mask=inside, other=0.0)
        tl.store(states + place * N * P + element, state, mask=inside)
        state = state * tl.load(decay + place) + added
    tl.store(end + transposed, state, mask=inside)


@triton.jit
def ssd_chunk_outputs(
    x, b, c, dt, coarse, fine, since_start, skip, states, y,
    x_batch, x_step, x_head, b_batch, b_step, b_group, c_batch, c_step, c_group,
    n_steps, n_chunks,
    H: tl.constexpr, GROUP_HEADS: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y_t = Σ_{s ≤ t} exp(c_t − c_s) <c_t, b_s> Δ_s x_s + exp(c_t) c_t S + d x_t, S the state before the chunk."""
    program = tl.program_id(0)
    P_BLOCKS: tl.constexpr = (P + BLOCK_P - 1) // BLOCK_P
    p = program % P_BLOCKS * BLOCK_P + tl.arange(0, BLOCK_P)
    row = (program // P_BLOCKS).to(tl.int64)  # of (batch, chunk, head)
    head, chunk, batch = row % H, row // H % n_chunks, row // H // n_chunks
    x += batch * x_batch + head * x_head
    b += batch * b_batch + head // GROUP_HEADS * b_group
    c += batch * c_batch + head // GROUP_HEADS * c_group
    states += row * N * P
    index = tl.arange(0, Q)
    step = chunk * Q + index

    scores = tl.zeros([Q, Q], tl.float32)
    from_state = tl.zeros([Q, BLOCK_P], tl.float32)
    for first in tl.range(0, N, BLOCK_N, num_stages=1):
        n = first + tl.arange(0, BLOCK_N)
        c_tile = _rows(c, c_step, step, n_steps, n, N)
        scores = _product(c_tile, tl.trans(_rows(b, b_step, step, n_steps, n, N)), scores, PRECISION)
        from_state = _product(c_tile, _rows(states, P, n, N, p, P), from_state, PRECISION)
    scores *= _decays(coarse, fine, row * Q, index) * tl.load(dt + row * Q + index)[None, :]
    x_tile = _rows(x, x_step, step, n_steps, p, P)
    out = from_state * tl.load(since_start + row * Q + index)[:, None]
    out = _product(scores, x_tile, out, PRECISION)
    if skip is not None:
        out += tl.load(skip + head) * x_tile.to(tl.float32)
    inside = (step < n_steps)[:, None] & (p < P)[None, :]
    tl.store(y + ((batch * n_steps + step[:, None]) * H + head) * P + p[None, :], out, mask=inside)


@triton.jit
def ssd_backward_inputs(
    grad_y, x, b, c, dt, coarse, fine, to_end, skip, flows,
    grad_x, grad_decay, grad_drive, from_end, grad_skip,
    y_batch, y_step, y_head, x_batch, x_step, x_head, b_batch, b_step, b_group, c_batch, c_step, c_group,
    n_steps, n_chunks,
    H: tl.constexpr, GROUP_HEADS: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x, and the parts of those of Δ and the log decays that come from inside a chunk.

    A program takes one head and chunk.

    With F the gradient that flows into the chunk's last state, V_ts = exp(c_t − c_s) <c_t, b_s> <dy_t, x_s> and e_s the
    decay from s to the end,

        dx_s = Δ_s (Σ_t exp(c_t − c_s) <c_t, b_s> dy_t + e_s b_s F) + d dy_s
        grad_drive_s = Σ_t V_ts + from_end_s, of Δ_s as a factor;  from_end_s = e_s <x_s, b_s F>
        grad_decay_t = Σ_{s < t} Δ_s V_ts − Σ_{s > t} Δ_t V_st, of c_t inside the chunk
    """
    row = tl.program_id(0).to(tl.int64)
    head, chunk, batch = row % H, row // H % n_chunks, row // H // n_chunks
    grad_y += batch * y_batch + head * y_head
    x += batch * x_batch + head * x_head
    b += batch * b_batch + head // GROUP_HEADS * b_group
    c += batch * c_batch + head // GROUP_HEADS * c_group
    flows += row * N * P
    index = tl.arange(0, Q)
    step = chunk * Q + index
    delta = tl.load(dt + row * Q + index)

    scores = tl.zeros([Q, Q], tl.float32)
    for first in tl.range(0, N, BLOCK_N, num_stages=1):
        n = first + tl.arange(0, BLOCK_N)
        c_tile, b_tile = _rows(c, c_step, step, n_steps, n, N), _rows(b, b_step, step, n_steps, n, N)
        scores = _product(c_tile, tl.trans(b_tile), scores, PRECISION)
    scores *= _decays(coarse, fine, row * Q, index)
    meetings = tl.zeros([Q, Q], tl.float32)  # <dy_t, x_s>
    for first in tl.range(0, P, BLOCK_P, num_stages=1):
        p = first + tl.arange(0, BLOCK_P)
        dy_tile, x_tile = _rows(grad_y, y_step, step, n_steps, p, P), _rows(x, x_step, step, n_steps, p, P)
        meetings = _product(dy_tile, tl.trans(x_tile), meetings, PRECISION)
    if grad_skip is not None:
        tl.store(grad_skip + row, tl.sum(tl.where(index[:, None] == index[None, :], meetings, 0.0)))
    meetings *= scores
    drive = tl.sum(meetings, 0)
    meetings = tl.where(index[:, None] > index[None, :], meetings * delta[None, :], 0.0)
    tl.store(grad_decay + row * Q + index, tl.sum(meetings, 1) - tl.sum(meetings, 0))

    end = tl.load(to_end + row * Q + index)
    flowing = tl.zeros([Q], tl.float32)
    for first in tl.range(0, P, BLOCK_P, num_stages=1):
        p = first + tl.arange(0, BLOCK_P)
        into = tl.zeros([Q, BLOCK_P], tl.float32)
        for first_n in tl.range(0, N, BLOCK_N, num_stages=1):
            n = first_n + tl.arange(0, BLOCK_N)
            b_tile = _rows(b, b_step, step, n_steps, n, N)
            into = _product(b_tile, _rows(flows, P, n, N, p, P), into, PRECISION)
        into *= end[:, None]
        x_tile = _rows(x, x_step, step, n_steps, p, P).to(tl.float32)
        flowing += tl.sum(into * x_tile, 1)
        dy_tile = _rows(grad_y, y_step, step, n_steps, p, P)
        into = _product(tl.trans(scores), dy_tile, into, PRECISION) * delta[:, None]
        if skip is not None:
            into += tl.load(skip + head) * dy_tile.to(tl.float32)
        inside = (step < n_steps)[:, None] & (p < P)[None, :]
        tl.store(grad_x + ((batch * n_steps + step[:, None]) * H + head) * P + p[None, :], into, mask=inside)
    tl.store(from_end + row * Q + index, flowing)
    tl.store(grad_drive + row * Q + index, drive + flowing)


@triton.jit
def ssd_backward_vectors(
    grad_y, x, b, c, dt, coarse, fine, since_start, to_end, states, flows,
    grad_b, grad_c, from_start, carried,
    y_batch, y_step, y_head, x_batch, x_step, x_head, b_batch, b_step, b_group, c_batch, c_step, c_group,
    n_steps, n_chunks,
    H: tl.constexpr, GROUP_HEADS: tl.constexpr, SUMMED_HEADS: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
    Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of b and c of SUMMED_HEADS neighbouring heads, all of a group or one, a block of n per program.

    With S the state before the chunk, F what flows into its last state and W_ts = exp(c_t − c_s) <dy_t, x_s> Δ_s,

        dc_t = Σ_s W_ts b_s + exp(c_t) S dy_t,   db_s = Σ_t W_ts c_t + Δ_s e_s F x_s

    `from_start` and `carried`, a block of n each, are <c_t, exp(c_t) S dy_t> and <S, F>, which the decays need.
    """
    program = tl.program_id(0)
    N_BLOCKS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    n = program % N_BLOCKS * BLOCK_N + tl.arange(0, BLOCK_N)
    row = (program // N_BLOCKS).to(tl.int64)
    steps_of_block = program.to(tl.int64) * Q  # the blocks of a row follow each other: beyond 2³¹ for long sequences
    head, chunk, batch = row % H, row // H % n_chunks, row // H // n_chunks
    group = head // GROUP_HEADS
    grad_y += batch * y_batch + head * y_head
    x += batch * x_batch + head * x_head
    states += row * N * P
    flows += row * N * P
    index = tl.arange(0, Q)
    step = chunk * Q + index

    of_state = tl.zeros([Q, BLOCK_N], tl.float32)
    of_flow = tl.zeros([Q, BLOCK_N], tl.float32)
    weights = tl.zeros([Q, Q], tl.float32)
    meeting = tl.zeros([BLOCK_N], tl.float32)
    for first in tl.range(0, P, BLOCK_P, num_stages=1):
        p = first + tl.arange(0, BLOCK_P)
        dy_tile, x_tile = _rows(grad_y, y_step, step, n_steps, p, P), _rows(x, x_step, step, n_steps, p, P)
        weights = _product(dy_tile, tl.trans(x_tile), weights, PRECISION)
        state, flow = _rows(states, P, n, N, p, P), _rows(flows, P, n, N, p, P)
        of_state = _product(dy_tile, tl.trans(state), of_state, PRECISION)
        of_flow = _product(x_tile, tl.trans(flow), of_flow, PRECISION)
        meeting += tl.sum(state * flow, 1)
    tl.store(carried + program, tl.sum(meeting))
    delta = tl.load(dt + row * Q + index)
    weights *= _decays(coarse, fine, row * Q, index) * delta[None, :]
    of_state *= tl.load(since_start + row * Q + index)[:, None]
    of_flow *= (tl.load(to_end + row * Q + index) * delta)[:, None]

    inside = (step < n_steps)[:, None] & (n < N)[None, :]
    place = ((batch * n_steps + step[:, None]) * (H // SUMMED_HEADS) + head // SUMMED_HEADS) * N + n[None, :]
    c_tile = _rows(c + batch * c_batch + group * c_group, c_step, step, n_steps, n, N)
    tl.store(from_start + steps_of_block + index, tl.sum(of_state * c_tile.to(tl.float32), 1))
    of_flow = _product(tl.trans(weights), c_tile, of_flow, PRECISION)
    tl.atomic_add(grad_b + place, of_flow, mask=inside, sem="relaxed")
    b_tile = _rows(b + batch * b_batch + group * b_group, b_step, step, n_steps, n, N)
    of_state = _product(weights, b_tile, of_state, PRECISION)
    tl.atomic_add(grad_c + place, of_state, mask=inside, sem="relaxed")
