"""Pairwise weights of `plstm2d` on CPUs: memory and threads for the compiled passes of `cpu_kernels`.

A cell's own states are matrices of DK·DV numbers, and the four directions of a grid of C cells would take some
40·C·DK·DV multiply-adds on them. The pairwise weights take 3·C² for a direction, on single numbers, after which all
is two matrix products as in attention, C²·(DK + DV): less, up to a thousand cells or so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.math import LANES
from visionssm.kernels.layout import addresses, packed
from visionssm.kernels.plstm2d.cpu_kernels import pairs_backward, pairs_forward
from visionssm.kernels.plstm2d.gates import Gates


def forward(gates: tuple[Tensor | None, ...], direct: Tensor | None) -> Tensor:
    """(B, C, C) weights of readers and sources from float32 gates (B, K, X, Y), in the order of `Gates`."""
    kept = [packed(x) for x in (*gates, direct)]
    batch, _, rows, columns = kept[0].shape
    n_cells = rows * columns
    weights = kept[0].new_empty(batch, n_cells, n_cells)
    tasks = batch * math.ceil(n_cells / LANES)
    threads.run_kernel(
        pairs_forward,
        tasks,
        **_grid(kept[0]),
        **_gates("", kept[:-1]),
        **addresses(direct=kept[-1], weights=weights),
    )
    return weights


def backward(grad_weights: Tensor, gates: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of the gates, in their order; None for a missing one."""
    kept = [packed(x) for x in gates]
    grad_weights = packed(grad_weights)
    batch, n_directions, rows, columns = kept[0].shape
    grads = [None if x is None else torch.empty_like(x) for x in kept]
    tasks = batch * n_directions if columns * rows else 0
    threads.run_kernel(
        pairs_backward,
        tasks,
        **_grid(kept[0]),
        **_gates("", kept),
        **_gates("grad_", grads),
        **addresses(grad_weights=grad_weights),
    )
    return tuple(grads)


def _grid(source: Tensor) -> dict[str, int]:
    _, n_directions, rows, columns = source.shape
    return {"n_directions": n_directions, "n_rows": rows, "n_columns": columns}


def _gates(prefix: str, gates: Sequence[Tensor | None]) -> dict[str, int]:
    """Addresses of gates in the order of `Gates`, or of their gradients, by the names of the kernels' arguments."""
    names = (prefix + name.replace("transition", "t") for name in Gates._fields)
    return addresses(**dict(zip(names, gates, strict=True)))
