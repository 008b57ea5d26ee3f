# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""What the Triton kernels of the selective scan share, and how they work.

One program walks a part of one sequence for a block of channels.

Along a sequence the state of every (channel d, state n) is a chain of affine maps h → decay_t·h + x_t with
decay_t = exp(Δ_t a), x_t = Δ_t b_t u_t. Affine maps compose associatively, so a chunk of STEPS steps is one scan, and
only the state at its end is carried to the next chunk, in registers and in float32. The states n are independent chains
that share Δ and u; they are walked one after the other over the same (STEPS, CHANNELS) tile.

A warp holds all STEPS steps of 32 channels: channels lie across its lanes, time in registers, so that a scan is a chain
of multiply-adds without shuffles, shared memory or barriers, and maps are read and written 32 neighbours at a time.
Low-rank step sizes are expanded by tensor cores, low (STEPS, R) @ weight (R, CHANNELS); `time_in_registers` brings
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


@triton.jit
def then(decay_first, x_first, decay_second, x_second):
    """The affine map h → decay·h + x of `first`, followed by that of `second`."""
    return decay_first * decay_second, decay_second * x_first + x_second


@triton.jit
def then_and_before(decay_first, x_first, kept_first, y_first, decay_second, x_second, kept_second, y_second):
    """`then`, and the same without the last map of the chain: what a scan says of all maps before each."""
    return (
        decay_first * decay_second,
        decay_second * x_first + x_second,
        decay_first * kept_second,
        kept_second * x_first + y_second,
    )


@triton.jit
def first_of(x, y):
    return x


@triton.jit
def time_in_registers(x, PRECISION: tl.constexpr):
    """x itself, in the layout of the maps: a scan over one element is nothing, but it keeps no layout of a product.

    Left out where it would only cost time: in interpreters, and on AMD's GPUs, whose warps hold time in two lanes.
    """
    if PRECISION == "ieee":
        return x
    return tl.reshape(tl.associative_scan(tl.expand_dims(x, 1), 1, first_of), [x.shape[0], x.shape[1]])


@triton.jit
def backwards(x, PRECISION: tl.constexpr):
    """A tile with its rows in reverse: where time lies in registers, these are only named anew.

    A scan with `reverse` would do it too, but Triton turns the lanes of a warp around as well, there and back, by
    fifteen shuffles for each register.
    """
    STEPS: tl.constexpr = x.shape[0]
    CHANNELS: tl.constexpr = x.shape[1]
    for bit in tl.static_range(8):
        if 1 << bit < STEPS:
            pairs = tl.reshape(x, [STEPS >> (bit + 1), 2, 1 << bit, CHANNELS])
            first, second = tl.split(tl.permute(pairs, [0, 2, 3, 1]))
            x = tl.reshape(tl.permute(tl.join(second, first), [0, 3, 1, 2]), [STEPS, CHANNELS])
    return time_in_registers(x, PRECISION)


@triton.jit
def sum_of_channels(x, PRECISION: tl.constexpr):
    """Σ_d of (STEPS, CHANNELS): transposed first, so that most of a sum lies in one lane."""
    return tl.sum(time_in_registers(tl.trans(x), PRECISION), 0)


@triton.jit
def softplus_excess(x):
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
def exact_parts(x, other, PRECISION: tl.constexpr):
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
def precise_product(x, y1, y2, y3, total, PRECISION: tl.constexpr):
    """total + x @ y to float32 accuracy, y in `exact_parts`: exact bfloat16 factors, or x in parts of tensor cores."""
    if y1.dtype == tl.bfloat16:
        total = tl.dot(x, y1, total)
        total = tl.dot(x, y2, total)
        return tl.dot(x, y3, total)
    else:
        return tl.dot(x.to(tl.float32), y1, total, input_precision=PRECISION)


@triton.jit
def program_place(K: tl.constexpr, n_sequences, n_parts, CHANNEL_BLOCKS: tl.constexpr):
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
def visited_pixels(order_row, start, n_steps, n_pixels, STEPS: tl.constexpr, OFFSET: tl.constexpr):
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
def load_tile(base, rows, inside, columns, on_columns):
    """Rows of a map at the pixels that a chunk visits, zeros outside; as they lie in memory."""
    return tl.load(base + rows[:, None] + columns[None, :], mask=inside[:, None] & on_columns[None, :], other=0.0)


@triton.jit
def step_weights(
    dt, dt_weight, dt_bias, route, d, on_d,
    D: tl.constexpr, RANK: tl.constexpr, RANK_PADDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What makes step sizes of dt for a block of channels: columns to read of dt, the weight's `exact_parts`, the bias.

    Without a weight the columns are the channels, and the parts stand for nothing.
    """
    if dt_weight is None:
        column, on_column = d, on_d
        w1, w2, w3 = d, d, d
    else:
        column = tl.arange(0, RANK_PADDED)
        # Or the compiler would lay out the maps' tiles as it does these, in pairs; with twice as many ranks as channels
        # the hint made the kernels slower on an H200.
        if d.shape[0] <= RANK_PADDED and 2 * d.shape[0] != RANK_PADDED:
            column = tl.multiple_of(column, 1)
        on_column = column < RANK
        weight = load_tile(dt_weight + route * RANK * D, column * D, on_column, d, on_d)
        w1, w2, w3 = exact_parts(weight, dt.dtype.element_ty, PRECISION)
    bias = tl.zeros([d.shape[0]], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + route * D + d, mask=on_d, other=0.0)
    return column, on_column, w1, w2, w3, bias


@triton.jit
def raw_steps(steps, w1, w2, w3, bias, exists, RANK: tl.constexpr, PRECISION: tl.constexpr):
    """dt + bias, float32 (STEPS, CHANNELS), from dt itself or from its low-rank factor.

    A step outside the map has dt = 0 and still decays by softplus(bias); a step past the end has Δ = softplus(−∞) = 0,
    which leaves the state as it is.
    """
    if RANK == 0:
        raw = steps.to(tl.float32)
    else:
        zero = tl.zeros([steps.shape[0], bias.shape[0]], tl.float32)
        raw = time_in_registers(precise_product(steps, w1, w2, w3, zero, PRECISION), PRECISION)
    return tl.where(exists[:, None], raw + bias[None, :], float("-inf"))


@triton.jit
def row_of(tile, row, index):
    """Row `row` of a tile whose rows are numbered by `index`: registers cannot be indexed, a masked sum can."""
    return tl.sum(tl.where(index[:, None] == row, tile, 0.0), 0)


@triton.jit
def walk_chunk(decay, x, before, step):
    """h_t of a chunk, (STEPS, CHANNELS), from the state before it."""
    x = tl.where(step[:, None] == 0, decay * before[None, :] + x, x)
    _, h = tl.associative_scan((decay, x), 0, then)
    return h
