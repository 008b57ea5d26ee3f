"""Compiled passes of the pairwise weights of `plstm2d` on CPUs.

The weight of a source for a reader is found by running the recurrence on single numbers: the source writes a 1, and the
weight is what arrives at the reader. Sixteen neighbouring sources are the lanes of a vector, whose states walk over the
readers cell by cell. States are zero before a lane's own cell, so lanes need not begin together.

Names: a tensor stands for its byte address, and is without gaps: gates (B, K, C), weights (B, C readers, C sources),
K = 1 or 4 directions and C = X·Y cells in row-major order. In the names of cells, (i, j) count along a direction and
(x, y) are the place in the map.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import clear
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

N_TRANSITIONS_AND_MARKS = 6

# mypy: disable-error-code="no-untyped-def"


@inlined
def _unit_vectors(address):
    """Vector n, which is zero, becomes one in lane n."""
    for n in range(LANES):
        put(address, n * LANES + n, np.float32(1))


@inlined
def _first_cell(first, count, against_x, against_y, n_rows, n_columns):
    """Where, along a direction, the first of `count` sources from number `first` on is: (i, j)."""
    first_row, last_row = first // n_columns, (first + count - 1) // n_columns
    i = n_rows - 1 - last_row if against_x else first_row
    j = 0
    if first_row == last_row:
        j = n_columns - 1 - (first + count - 1) % n_columns if against_y else first % n_columns
    return i, j


@inlined
def _leaving(p, lane, units, source, straight, turned, ahead, aside):
    """The states that leave a cell on one side, from that on the same axis (`ahead`) and on the other."""
    state = load_spread(straight, p) * ahead
    if turned != 0:
        state = multiply_add(load_spread(turned, p), aside, state)
    if 0 <= lane < LANES:
        state = multiply_add(load_spread(source, p), load(units, lane * LANES), state)
    return state


def forward_memory(n_rows: int, n_columns: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {
        "units": LANES * LANES,
        "row": n_columns * LANES,
        "tile": n_rows * n_columns * LANES,
    }


@kernel_with(forward_memory, unset=["row", "tile"])
def pairs_forward(
    tasks, counter,
    units, row, tile,
    n_directions, n_rows, n_columns,
    source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, direct, weights,
):  # fmt: skip
    """Take tasks, a batch element and sixteen sources each, from `counter` until none is left.

    Addresses of missing turns and direct weights are 0. `row` has the states that go along x, by column.
    """
    _unit_vectors(units)
    n_cells = n_rows * n_columns
    groups = (n_cells + LANES - 1) // LANES
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch = task // groups
        first = (task % groups) * LANES
        count = min(LANES, n_cells - first)
        clear(tile, n_cells * LANES)
        if direct != 0:
            for lane in range(count):
                put(tile, (first + lane) * LANES + lane, scalar(direct, batch * n_cells + first + lane))
        for k in range(n_directions):
            against_x, against_y = k & 1, k >> 1
            i0, j0 = _first_cell(first, count, against_x, against_y, n_rows, n_columns)
            clear(row, n_columns * LANES)
            for i in range(i0, n_rows):
                x = n_rows - 1 - i if against_x else i
                u = spread(np.float32(0))
                for j in range(j0, n_columns):
                    y = n_columns - 1 - j if against_y else j
                    cell = x * n_columns + y
                    p, lane = (batch * n_directions + k) * n_cells + cell, cell - first
                    l_in = load(row, y * LANES)
                    read = multiply_add(load_spread(mark_l, p), l_in, load(tile, cell * LANES))
                    store(tile, cell * LANES, multiply_add(load_spread(mark_u, p), u, read))
                    store(row, y * LANES, _leaving(p, lane, units, source_r, t_rl, t_ru, l_in, u))
                    u = _leaving(p, lane, units, source_d, t_du, t_dl, u, l_in)
        for cell in range(n_cells):
            place = (batch * n_cells + cell) * n_cells + first
            if count == LANES:
                store(weights, place, load(tile, cell * LANES))
            else:
                for lane in range(count):
                    put(weights, place + lane, scalar(tile, cell * LANES + lane))


def backward_memory(n_rows: int, n_columns: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    n_cells = n_rows * n_columns
    return {
        "units": LANES * LANES,
        "row": n_columns * LANES,
        "spare": LANES,
        "entered_l": n_cells * LANES,
        "entered_u": n_cells * LANES,
        "tile": n_cells * LANES,
        "sums": n_cells * N_TRANSITIONS_AND_MARKS * LANES,
    }


@kernel_with(backward_memory, unset=["row", "spare", "entered_l", "entered_u", "tile", "sums"])
def pairs_backward(
    tasks, counter,
    units, row, spare, entered_l, entered_u, tile, sums,
    n_directions, n_rows, n_columns,
    source_r, source_d, t_rl, t_du, mark_l, mark_u, t_ru, t_dl, grad_weights,
    grad_source_r, grad_source_d, grad_t_rl, grad_t_du, grad_mark_l, grad_mark_u, grad_t_ru, grad_t_dl,
):  # fmt: skip
    """Take tasks, a batch element and a direction each; see `pairs_forward`.

    The walk is made again and its states are kept; then their gradients walk back. Sums over sources stay in lanes
    until the last source: `sums` has those of t_rl, t_ru, t_du, t_dl, mark_l, mark_u of each cell.
    """
    n_cells = n_rows * n_columns
    _unit_vectors(units)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, k = task // n_directions, task % n_directions
        against_x, against_y = k & 1, k >> 1
        clear(sums, n_cells * N_TRANSITIONS_AND_MARKS * LANES)
        for first in range(0, n_cells, LANES):
            count = min(LANES, n_cells - first)
            i0, j0 = _first_cell(first, count, against_x, against_y, n_rows, n_columns)
            clear(row, n_columns * LANES)
            for i in range(i0, n_rows):
                x = n_rows - 1 - i if against_x else i
                u = spread(np.float32(0))
                for j in range(j0, n_columns):
                    y = n_columns - 1 - j if against_y else j
                    cell = x * n_columns + y
                    p, lane = task * n_cells + cell, cell - first
                    l_in = load(row, y * LANES)
                    store(entered_l, cell * LANES, l_in)
                    store(entered_u, cell * LANES, u)
                    store(row, y * LANES, _leaving(p, lane, units, source_r, t_rl, t_ru, l_in, u))
                    u = _leaving(p, lane, units, source_d, t_du, t_dl, u, l_in)
                    place = (batch * n_cells + cell) * n_cells + first
                    if count == LANES:
                        store(tile, cell * LANES, load(grad_weights, place))
                    else:
                        store(tile, cell * LANES, spread(np.float32(0)))
                        for n in range(count):
                            put(tile, cell * LANES + n, scalar(grad_weights, place + n))
            clear(
                row, n_columns * LANES
            )  # from here on the gradients of the states that leave, r here and d in the loop
            for i in range(n_rows - 1, i0 - 1, -1):
                x = n_rows - 1 - i if against_x else i
                grad_d = spread(np.float32(0))
                for j in range(n_columns - 1, j0 - 1, -1):
                    y = n_columns - 1 - j if against_y else j
                    cell = x * n_columns + y
                    p, lane = task * n_cells + cell, cell - first
                    l_in = load(entered_l, cell * LANES)
                    u = load(entered_u, cell * LANES)
                    grad_r, grad = load(row, y * LANES), load(tile, cell * LANES)
                    place = cell * N_TRANSITIONS_AND_MARKS * LANES
                    store(sums, place, multiply_add(grad_r, l_in, load(sums, place)))
                    store(sums, place + 2 * LANES, multiply_add(grad_d, u, load(sums, place + 2 * LANES)))
                    store(sums, place + 4 * LANES, multiply_add(grad, l_in, load(sums, place + 4 * LANES)))
                    store(sums, place + 5 * LANES, multiply_add(grad, u, load(sums, place + 5 * LANES)))
                    if 0 <= lane < LANES:
                        store(spare, 0, grad_d)
                        put(grad_source_r, p, scalar(row, y * LANES + lane))
                        put(grad_source_d, p, scalar(spare, lane))
                    grad_l = load_spread(mark_l, p) * grad
                    grad_l = multiply_add(load_spread(t_rl, p), grad_r, grad_l)
                    grad_u = load_spread(mark_u, p) * grad
                    grad_u = multiply_add(load_spread(t_du, p), grad_d, grad_u)
                    if t_ru != 0:
                        store(sums, place + LANES, multiply_add(grad_r, u, load(sums, place + LANES)))
                        grad_u = multiply_add(load_spread(t_ru, p), grad_r, grad_u)
                    if t_dl != 0:
                        store(sums, place + 3 * LANES, multiply_add(grad_d, l_in, load(sums, place + 3 * LANES)))
                        grad_l = multiply_add(load_spread(t_dl, p), grad_d, grad_l)
                    store(row, y * LANES, grad_l)
                    grad_d = grad_u
        for cell in range(n_cells):
            p, place = task * n_cells + cell, cell * N_TRANSITIONS_AND_MARKS * LANES
            put(grad_t_rl, p, total(load(sums, place)))
            put(grad_t_du, p, total(load(sums, place + 2 * LANES)))
            put(grad_mark_l, p, total(load(sums, place + 4 * LANES)))
            put(grad_mark_u, p, total(load(sums, place + 5 * LANES)))
            if t_ru != 0:
                put(grad_t_ru, p, total(load(sums, place + LANES)))
            if t_dl != 0:
                put(grad_t_dl, p, total(load(sums, place + 3 * LANES)))
