"""The two-dimensional recurrence of pLSTM, defined: plain PyTorch, any float dtype, cell after cell, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.plstm2d.gates import Gates, with_turns

BorderStates = tuple[Tensor, Tensor]
"""(B, Y, DK, DV, JT) states along the x axis at every y, and (B, X, DK, DV, JT) states along the y axis at every x."""


def plstm2d_reference(
    q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None, initial_state: BorderStates | None
) -> tuple[Tensor, BorderStates]:
    """One direction of `visionssm.kernels.plstm2d`, with its shapes; also returns the states that leave the grid."""
    batch, rows, columns, d_key, _ = q.shape
    d_value, state = v.shape[3], gates.transition_rl.shape[-1]
    if initial_state is None:
        left = q.new_zeros(batch, columns, d_key, d_value, state)
        top = q.new_zeros(batch, rows, d_key, d_value, state)
    else:
        left, top = initial_state
    along_x, along_y = list(left.unbind(1)), list(top.unbind(1))
    gates = with_turns(gates)
    assert gates.transition_ru is not None
    assert gates.transition_dl is not None
    q = q / d_key**0.5
    cells = []
    for x in range(rows):
        for y in range(columns):
            at = (slice(None), x, y)
            entering_l, entering_u = along_x[y], along_y[x]
            cells.append(
                read(q[at], gates.mark_l[at], entering_l)
                + read(q[at], gates.mark_u[at], entering_u)
                + (0 if direct is None else read_itself(q[at], k[at], v[at], direct[at]))
            )
            along_x[y] = (
                passed(gates.transition_rl[at], entering_l)
                + passed(gates.transition_ru[at], entering_u)
                + written(gates.source_r[at], k[at], v[at])
            )
            along_y[x] = (
                passed(gates.transition_du[at], entering_u)
                + passed(gates.transition_dl[at], entering_l)
                + written(gates.source_d[at], k[at], v[at])
            )
    out = torch.stack(cells, dim=1).unflatten(1, (rows, columns))
    return out, (torch.stack(along_x, dim=1), torch.stack(along_y, dim=1))


def passed(transition: Tensor, state: Tensor) -> Tensor:
    """What a transition (B, JT, JT) makes of a state (B, DK, DV, JT)."""
    return torch.einsum("bij,bdvj->bdvi", transition, state)


def written(source: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The state that a cell adds by its source gate (B, JT, JK, JV)."""
    return torch.einsum("bijk,bdj,bvk->bdvi", source, k, v)


def read(q: Tensor, mark: Tensor, state: Tensor) -> Tensor:
    """What a cell's query finds in a state through its mark gate (B, JO, JQ, JT)."""
    return torch.einsum("bdj,bijk,bdvk->bvi", q, mark, state)


def read_itself(q: Tensor, k: Tensor, v: Tensor, direct: Tensor) -> Tensor:
    """What a cell's query finds in the cell's own source, through D (B, JO, JQ, JK, JV)."""
    return torch.einsum("bdj,bijkl,bdk,bvl->bvi", q, direct, k, v)
