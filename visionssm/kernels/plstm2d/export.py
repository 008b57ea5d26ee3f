"""The two-dimensional recurrence as a loop over diagonals that exporters know (ONNX: `Scan`), for grids of any size.

Cells (x, y) with the same x + y do not depend on each other, so a step of the loop is a whole diagonal: what leaves a
cell along x enters the next row one step later, and what leaves it along y the same row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from visionssm.kernels.plstm2d.gates import Gates, with_turns
from visionssm.kernels.plstm2d.reference import BorderStates, passed, read, read_itself, written


def plstm2d_by_diagonals(
    q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None, initial_state: BorderStates | None
) -> tuple[Tensor, BorderStates]:
    """`reference.plstm2d_reference` with the batch and both sides of the grid left open."""
    batch, rows, columns, d_key, _ = q.shape
    d_value, state = v.shape[3], gates.transition_rl.shape[-1]
    q = q / d_key**0.5
    gates = with_turns(gates)
    n_diagonals = rows + columns - 1
    row = torch.arange(rows, dtype=torch.int64, device=q.device)
    column = (
        torch.arange(n_diagonals, dtype=torch.int64, device=q.device)[:, None] - row
    )  # (S, X): that of the cell on the diagonal
    exists = (column >= 0) & (column < columns)
    cell = (row * columns + column.clamp(0, columns - 1)).flatten()

    def on_diagonals(x: Tensor) -> Tensor:
        """(B, X, Y, …) to (S, B, X, …); zeros where a diagonal leaves the grid."""
        x = x.flatten(1, 2).index_select(1, cell).unflatten(1, (n_diagonals, rows))
        return torch.where(exists.view(n_diagonals, rows, *[1] * (x.ndim - 3)), x, 0).movedim(1, 0)

    def at_the_border(x: Tensor) -> Tensor:
        """(B, n, …) states that enter one on each of the first n diagonals, to (S, B, …)."""
        rest = x.new_zeros(batch, n_diagonals - x.shape[1], *x.shape[2:])
        return torch.cat([x, rest], 1).movedim(1, 0)

    none = q.new_zeros(batch, rows, d_key, d_value, state)
    along_x, along_y = initial_state or (q.new_zeros(batch, columns, d_key, d_value, state), none)
    first_row, own_row = (row == 0).to(q.dtype), (column == 0).to(q.dtype)

    def step(carry: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        entering_l, entering_u, leaving_u = carry
        q_s, k_s, v_s, *gates_s, from_left, from_top, own, last = inputs
        entering_l = entering_l + from_left[:, None] * first_row.view(1, -1, 1, 1, 1)
        entering_u = entering_u + from_top[:, None] * own.view(1, -1, 1, 1, 1)
        one = Gates(*(x.flatten(0, 1) for x in gates_s))
        left, top, q_s, k_s, v_s = (x.flatten(0, 1) for x in (entering_l, entering_u, q_s, k_s, v_s))
        assert one.transition_ru is not None
        assert one.transition_dl is not None
        out = read(q_s, one.mark_l, left) + read(q_s, one.mark_u, top)
        r = passed(one.transition_rl, left) + passed(one.transition_ru, top) + written(one.source_r, k_s, v_s)
        d = passed(one.transition_du, top) + passed(one.transition_dl, left) + written(one.source_d, k_s, v_s)
        out, r, d = (x.unflatten(0, entering_l.shape[:2]) for x in (out, r, d))
        next_row = torch.cat([torch.zeros_like(r[:, :1]), r[:, :-1]], 1)
        leaving_u = torch.where(last.view(1, -1, 1, 1, 1), d, leaving_u)
        return (next_row, d.clone(), leaving_u), (out, r[:, -1].clone())

    inputs = (
        *(on_diagonals(x) for x in (q, k, v)),
        *(on_diagonals(x) for x in gates if x is not None),
        *(at_the_border(x) for x in (along_x, along_y)),
        *(own_row, column == columns - 1),
    )
    (_, _, leaving_u), (out, leaving_r) = scan(step, (none, none.clone(), none.clone()), inputs, dim=0)
    # Cell (x, y) is on diagonal x + y.
    place = ((row[:, None] + torch.arange(columns, dtype=torch.int64, device=q.device)) * rows + row[:, None]).flatten()
    out = out.movedim(0, 1).flatten(1, 2).index_select(1, place).unflatten(1, (rows, columns))
    if direct is not None:
        cells = (x.flatten(0, 2) for x in (q, k, v, direct))
        out = out + read_itself(*cells).unflatten(0, (batch, rows, columns))
    return out, (leaving_r[rows - 1 :].movedim(0, 1), leaving_u)
