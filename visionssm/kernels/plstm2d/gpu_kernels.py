# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the pairwise weights of `plstm2d`: a program walks over the rows of a map for a block of sources.

The weight of a source for a reader is found by running the recurrence on single numbers, for many sources side by side:
the source writes a 1, and the weight is what arrives at the reader. Between rows only the states that go along x are
carried, a tile of (columns, sources). Inside a row the states that go along y are a chain of affine maps

    d_y = T_du u_y + (T_dl l_y + S_d),   u_y = d_{y−1}   (l_in and u in the code),

a parallel scan. Cells need u, the state before their own map, so what is scanned is a pair of maps: all of a stretch of
cells, and all but its last.

Gates are (B, K, C), weights (B, C readers, C sources), without gaps; K = 1 or 4 directions, C = n_rows·n_columns.
Offsets inside a batch element are 32-bit. Gradients of transitions and marks are atomic sums over blocks of sources.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _then(all_a, all_b, but_a, but_b, next_all_a, next_all_b, next_but_a, next_but_b):
    """Stretches of cells one after the other: (a, b) of s → a·s + b for all their cells, and for all but the last."""
    return (
        all_a * next_all_a,
        next_all_a * all_b + next_all_b,
        all_a * next_but_a,
        next_but_a * all_b + next_but_b,
    )


@triton.jit
def _entering(straight, x, AGAINST: tl.constexpr):
    """States that enter the cells of a row, where straight·state + x leaves each; both are (columns, sources)."""
    straight = tl.broadcast_to(straight[:, None], x.shape)
    _, _, _, state = tl.associative_scan((straight, x, x * 0 + 1, x * 0), 0, _then, reverse=AGAINST)
    return state


@triton.jit
def _gate(gate, p, exists):
    return tl.load(gate + p, mask=exists, other=0.0)


@triton.jit
def _moved(l_in, own, p, exists, source_d, t_du, t_dl, AGAINST: tl.constexpr):
    """u of the cells of a row, whose l is given; `own` is one where a cell is the source."""
    written = _gate(source_d, p, exists)[:, None] * own
    if t_dl is not None:
        written += _gate(t_dl, p, exists)[:, None] * l_in
    return _entering(_gate(t_du, p, exists), written, AGAINST)


@triton.jit
def _left(l_in, u, own, p, exists, source_r, t_rl, t_ru):
    """r of the cells of a row, which is the l of those of the next."""
    r = _gate(source_r, p, exists)[:, None] * own + _gate(t_rl, p, exists)[:, None] * l_in
    if t_ru is not None:
        r += _gate(t_ru, p, exists)[:, None] * u
    return r


@triton.jit
def _read(l_in, u, p, exists, mark_l, mark_u):
    return _gate(mark_l, p, exists)[:, None] * l_in + _gate(mark_u, p, exists)[:, None] * u


@triton.jit
def pairs_forward(
    source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, direct,
    weights,
    n_rows, n_columns,
    K: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr,
):  # fmt: skip
    """Weights of a block of sources for all readers; the grid is (B·BLOCKS,).

    The directions with the rows write those from the block's first row on, and then the directions against the rows
    those up to its last one, adding where both meet.
    """
    n_cells = n_rows * n_columns
    batch = (tl.program_id(0) // BLOCKS).to(tl.int64)
    first = (tl.program_id(0) % BLOCKS) * SOURCES
    source = first + tl.arange(0, SOURCES)
    column = tl.arange(0, COLUMNS)
    exists = column < n_columns
    inside = exists[:, None] & (source < n_cells)[None, :]
    first_row = first // n_columns
    last_row = tl.minimum(first + SOURCES - 1, n_cells - 1) // n_columns
    weights += batch * n_cells * n_cells

    l_in = tl.zeros([COLUMNS, SOURCES], tl.float32)
    l_back = tl.zeros([COLUMNS, SOURCES], tl.float32)
    # One direction alone also writes the zeros of the rows before.
    for x in range(first_row if K == 4 else 0, n_rows):
        cell = x * n_columns + column
        own = tl.where(cell[:, None] == source[None, :], 1.0, 0.0)
        p = batch * K * n_cells + cell
        u = _moved(l_in, own, p, exists, source_d, t_du, t_dl, False)
        read = _read(l_in, u, p, exists, mark_l, mark_u)
        l_in = _left(l_in, u, own, p, exists, source_r, t_rl, t_ru)
        if K == 4:
            p += 2 * n_cells
            u = _moved(l_back, own, p, exists, source_d, t_du, t_dl, True)
            read += _read(l_back, u, p, exists, mark_l, mark_u)
            l_back = _left(l_back, u, own, p, exists, source_r, t_rl, t_ru)
        if direct is not None:
            read += tl.load(direct + batch * n_cells + cell, mask=exists, other=0.0)[:, None] * own
        tl.store(weights + cell[:, None] * n_cells + source[None, :], read, mask=inside)

    if K == 4:
        tl.debug_barrier()  # the rows of the block are read again, perhaps by other threads
        l_in = tl.zeros([COLUMNS, SOURCES], tl.float32)
        l_back = tl.zeros([COLUMNS, SOURCES], tl.float32)
        for i in range(n_rows - 1 - last_row, n_rows):
            x = n_rows - 1 - i
            cell = x * n_columns + column
            own = tl.where(cell[:, None] == source[None, :], 1.0, 0.0)
            p = (batch * K + 1) * n_cells + cell
            u = _moved(l_in, own, p, exists, source_d, t_du, t_dl, False)
            read = _read(l_in, u, p, exists, mark_l, mark_u)
            l_in = _left(l_in, u, own, p, exists, source_r, t_rl, t_ru)
            p += 2 * n_cells
            u = _moved(l_back, own, p, exists, source_d, t_du, t_dl, True)
            read += _read(l_back, u, p, exists, mark_l, mark_u)
            l_back = _left(l_back, u, own, p, exists, source_r, t_rl, t_ru)
            place = weights + cell[:, None] * n_cells + source[None, :]
            read += tl.load(place, mask=inside & (x >= first_row), other=0.0)
            tl.store(place, read, mask=inside)


@triton.jit
def _add(grad, p, exists, x):
    """Add the sums over sources to a gate's gradient."""
    tl.atomic_add(grad + p, tl.sum(x, 1), mask=exists, sem="relaxed")


@triton.jit
def _backward_along(
    source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, grad_weights,
    grad_source_r, grad_source_d, grad_t_rl, grad_t_du, grad_mark_l, grad_mark_u, grad_t_ru, grad_t_dl,
    entered, base, source, column, begin, n_rows, n_columns,
    against_x, AGAINST_Y: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr,
):  # fmt: skip
    """One direction of `pairs_backward`; `base` is where its gates are, `begin` its first row with a source."""
    n_cells = n_rows * n_columns
    exists = column < n_columns
    inside = exists[:, None] & (source < n_cells)[None, :]

    l_in = tl.zeros([COLUMNS, SOURCES], tl.float32)
    for i in range(begin, n_rows):
        x = tl.where(against_x == 1, n_rows - 1 - i, i)
        cell = x * n_columns + column
        own = tl.where(cell[:, None] == source[None, :], 1.0, 0.0)
        p = base + cell
        tl.store(entered + cell[:, None] * n_cells + source[None, :], l_in, mask=inside)
        u = _moved(l_in, own, p, exists, source_d, t_du, t_dl, AGAINST_Y)
        l_in = _left(l_in, u, own, p, exists, source_r, t_rl, t_ru)
    tl.debug_barrier()

    grad_r = tl.zeros([COLUMNS, SOURCES], tl.float32)
    for back in range(begin, n_rows):
        i = n_rows - 1 - back + begin
        x = tl.where(against_x == 1, n_rows - 1 - i, i)
        cell = x * n_columns + column
        own = tl.where(cell[:, None] == source[None, :], 1.0, 0.0)
        p = base + cell
        place = cell[:, None] * n_cells + source[None, :]
        l_in = tl.load(entered + place, mask=inside, other=0.0)
        grad = tl.load(grad_weights + place, mask=inside, other=0.0)
        u = _moved(l_in, own, p, exists, source_d, t_du, t_dl, AGAINST_Y)
        _add(grad_mark_l, p, exists, grad * l_in)
        _add(grad_mark_u, p, exists, grad * u)
        _add(grad_source_r, p, exists, grad_r * own)
        _add(grad_t_rl, p, exists, grad_r * l_in)
        # The gradient of d is that of the next cell's u, which is again a chain along the row.
        grad_u = _gate(mark_u, p, exists)[:, None] * grad
        if t_ru is not None:
            _add(grad_t_ru, p, exists, grad_r * u)
            grad_u += _gate(t_ru, p, exists)[:, None] * grad_r
        grad_d = _entering(_gate(t_du, p, exists), grad_u, not AGAINST_Y)
        _add(grad_source_d, p, exists, grad_d * own)
        _add(grad_t_du, p, exists, grad_d * u)
        grad_r = _gate(mark_l, p, exists)[:, None] * grad + _gate(t_rl, p, exists)[:, None] * grad_r
        if t_dl is not None:
            _add(grad_t_dl, p, exists, grad_d * l_in)
            grad_r += _gate(t_dl, p, exists)[:, None] * grad_d
    tl.debug_barrier()  # `entered` is written again


@triton.jit
def pairs_backward(
    source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, grad_weights,
    grad_source_r, grad_source_d, grad_t_rl, grad_t_du, grad_mark_l, grad_mark_u, grad_t_ru, grad_t_dl,
    entered,
    n_rows, n_columns,
    K: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr,
    APART: tl.constexpr,
):  # fmt: skip
    """Add the gradients of all gates that come from a block of sources; the grid is (B·BLOCKS,).

    A direction is walked again, and the l of every row goes to `entered`, as large as the weights. Then the
    gradients of the states walk back. With APART, each block of sources has gradients of its own, (BLOCKS, B, K, C).
    """
    n_cells = n_rows * n_columns
    batch = (tl.program_id(0) // BLOCKS).to(tl.int64)
    first = (tl.program_id(0) % BLOCKS) * SOURCES
    source = first + tl.arange(0, SOURCES)
    column = tl.arange(0, COLUMNS)
    first_row = first // n_columns
    last_row = tl.minimum(first + SOURCES - 1, n_cells - 1) // n_columns
    grad_weights += batch * n_cells * n_cells
    entered += batch * n_cells * n_cells
    if APART:
        own = (tl.program_id(0) % BLOCKS).to(tl.int64) * (tl.num_programs(0) // BLOCKS * K) * n_cells
        grad_source_r += own
        grad_source_d += own
        grad_t_rl += own
        grad_t_du += own
        grad_mark_l += own
        grad_mark_u += own
        if grad_t_ru is not None:
            grad_t_ru += own
        if grad_t_dl is not None:
            grad_t_dl += own
    for against_x in range(1 if K == 1 else 2):
        begin = tl.where(against_x == 1, n_rows - 1 - last_row, first_row)
        for against_y in tl.static_range(1 if K == 1 else 2):
            _backward_along(
                source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, grad_weights,
                grad_source_r, grad_source_d, grad_t_rl, grad_t_du, grad_mark_l, grad_mark_u, grad_t_ru, grad_t_dl,
                entered, (batch * K + 2 * against_y + against_x) * n_cells, source, column, begin, n_rows, n_columns,
                against_x, against_y == 1, COLUMNS, SOURCES,
            )  # fmt: skip
