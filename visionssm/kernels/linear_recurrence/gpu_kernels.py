# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernel of the linear recurrence: one program walks all steps for a block of neighbouring columns.

A step is an affine map h → a·h + b, and affine maps compose associatively: a chunk of STEPS steps is one parallel scan,
and only the state at its end is carried to the next chunk, in registers. Complex numbers are pairs of floats.

A warp holds all steps of 32 columns: columns lie across its lanes and time in registers, so that a scan needs no
shuffles, shared memory or barriers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _then(a_first, b_first, a_second, b_second):
    """The affine map h → a·h + b of `first`, followed by that of `second`."""
    return a_first * a_second, a_second * b_first + b_second


@triton.jit
def _then_complex(a1_re, a1_im, b1_re, b1_im, a2_re, a2_im, b2_re, b2_im):
    """`_then` for complex numbers."""
    return (
        a1_re * a2_re - a1_im * a2_im,
        a1_re * a2_im + a1_im * a2_re,
        a2_re * b1_re - a2_im * b1_im + b2_re,
        a2_re * b1_im + a2_im * b1_re + b2_im,
    )


@triton.jit
def _row(tile, row, index):
    """Row `row` of a tile whose rows are numbered by `index`: registers cannot be indexed, a masked sum can."""
    return tl.sum(tl.where(index[:, None] == row, tile, 0.0), 0)


@triton.jit
def _chunk(
    a, b, first, index, column, on_column, n_steps, width, a_step, a_inner,
    PAIRS: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """Factors and additions of a chunk of steps, real and imaginary, 0 outside."""
    PARTS: tl.constexpr = 2 if PAIRS else 1
    visit = first + index  # number of a step in the order of visits
    exists = visit < n_steps
    t = n_steps - 1 - visit if REVERSE else visit
    used = t
    known = exists
    if ADJOINT:  # of the step visited before; the first one follows a state of zeros
        used = t + 1 if REVERSE else t - 1
        known = exists & (visit > 0)
    inside = exists[:, None] & on_column[None, :]
    place = (t.to(tl.int64)[:, None] * width + column[None, :]) * PARTS
    factor = (used.to(tl.int64)[:, None] * a_step + column[None, :] * a_inner) * PARTS
    on_factor = known[:, None] & on_column[None, :]
    b_re = tl.load(b + place, mask=inside, other=0.0)
    a_re = tl.load(a + factor, mask=on_factor, other=0.0)
    b_im, a_im = b_re, a_re
    if PAIRS:
        b_im = tl.load(b + place + 1, mask=inside, other=0.0)
        a_im = tl.load(a + factor + 1, mask=on_factor, other=0.0)
        if ADJOINT:
            a_im = -a_im
    return a_re, a_im, b_re, b_im


@triton.jit
def linear_recurrence_states(
    a, b, start, out,
    a_outer, a_step, a_inner,
    n_steps, width,
    PAIRS: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr, STEPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out_t = a_t out_{t−1} + b_t. b, out: (O, T, width) numbers, pairs of floats if PAIRS; a's strides: in numbers.

    ADJOINT: the factor of a step is the conjugate of the one at the step visited before it.
    """
    PARTS: tl.constexpr = 2 if PAIRS else 1
    blocks = tl.cdiv(width, COLUMNS)
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    # As if columns were not aligned: no lane then reads two neighbours, which would split time between lanes.
    column = tl.multiple_of(tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS), 1)
    on_column = column < width
    index = tl.arange(0, STEPS)
    a += outer * a_outer * PARTS
    b += outer * n_steps * width * PARTS
    out += outer * n_steps * width * PARTS

    h_re = tl.zeros([COLUMNS], tl.float32)
    h_im = tl.zeros([COLUMNS], tl.float32)
    if start is not None:
        start += (outer * width + column) * PARTS
        h_re = tl.load(start, mask=on_column, other=0.0)
        if PAIRS:
            h_im = tl.load(start + 1, mask=on_column, other=0.0)

    a_re, a_im, b_re, b_im = _chunk(
        a, b, 0, index, column, on_column, n_steps, width, a_step, a_inner, PAIRS, REVERSE, ADJOINT
    )
    for first in tl.range(0, n_steps, STEPS, num_stages=1):
        # Few warps are there to hide the way to memory, so the next chunk is asked for first.
        next_a_re, next_a_im, next_b_re, next_b_im = _chunk(
            a, b, first + STEPS, index, column, on_column, n_steps, width, a_step, a_inner, PAIRS, REVERSE, ADJOINT
        )
        visit = first + index
        t = n_steps - 1 - visit if REVERSE else visit
        place = (t.to(tl.int64)[:, None] * width + column[None, :]) * PARTS
        inside = (visit < n_steps)[:, None] & on_column[None, :]
        at_start = index[:, None] == 0
        if PAIRS:
            from_re = a_re * h_re[None, :] - a_im * h_im[None, :]
            from_im = a_re * h_im[None, :] + a_im * h_re[None, :]
            b_re += tl.where(at_start, from_re, 0.0)
            b_im += tl.where(at_start, from_im, 0.0)
            _, _, b_re, b_im = tl.associative_scan((a_re, a_im, b_re, b_im), 0, _then_complex)
            tl.store(out + place + 1, b_im, mask=inside)
            h_im = _row(b_im, STEPS - 1, index)
        else:
            b_re += tl.where(at_start, a_re * h_re[None, :], 0.0)
            _, b_re = tl.associative_scan((a_re, b_re), 0, _then)
        tl.store(out + place, b_re, mask=inside)
        h_re = _row(b_re, STEPS - 1, index)
        a_re, a_im, b_re, b_im = next_a_re, next_a_im, next_b_re, next_b_im
