"""Sparse convolution over the pairs of rows that there are: gather, one matrix product per tap, sum per output row.

Of the 27 places around a voxel of a surface, four to nine are occupied; only these are gathered and multiplied. Rows
are taken in blocks, so that what is gathered stays in the cache and memory does not grow with the number of voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 2048  # of a block


@dataclass(frozen=True)
class Pairs:
    """The pairs of a block of output rows, tap by tap."""

    source: Tensor  # (pairs,) input row
    row: Tensor  # (pairs,) output row
    counts: list[int]  # of each tap
    first: int  # output row of the block
    by_row: Tensor  # (pairs,) which pairs, row by row
    starts: Tensor  # (rows,) where each row begins among them


def blocks(neighbours: Tensor) -> Iterator[Pairs]:
    """Pairs of a table (N, taps), a block of rows after the other."""
    for first in range(0, len(neighbours), ROWS):
        table = neighbours[first : first + ROWS].t()  # (taps, rows)
        present = table >= 0
        number = present.flatten().cumsum(0).view(present.shape) - 1  # of each pair, tap by tap
        rows = torch.arange(first, first + table.shape[1], dtype=torch.int64, device=table.device)
        per_row = present.sum(0)
        yield Pairs(
            source=table[present].long(),
            row=rows.expand(table.shape)[present],
            counts=present.sum(1).tolist(),
            first=first,
            by_row=number.t()[present.t()],
            starts=per_row.cumsum(0) - per_row,
        )


def convolve(features: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
    """y_i = Σ_k W_kᵀ x_{neighbours[i, k]} for features (N, Cin), weight (taps, Cin, Cout) of one dtype."""
    y = features.new_empty(features.shape[0], weight.shape[2])
    for pairs in blocks(neighbours):
        gathered = features.index_select(0, pairs.source)
        products = gathered.new_empty(len(gathered), weight.shape[2])
        for x, w, out in zip(gathered.split(pairs.counts), weight, products.split(pairs.counts), strict=True):
            torch.mm(x, w, out=out)
        rows = len(pairs.starts)
        y[pairs.first : pairs.first + rows] = F.embedding_bag(pairs.by_row, products, pairs.starts, mode="sum")
    return y


def weight_gradient(features: Tensor, grad: Tensor, neighbours: Tensor) -> Tensor:
    """Σ_i x_{neighbours[i, k]} dy_iᵀ of every tap: (taps, Cin, Cout)."""
    total = features.new_zeros(neighbours.shape[1], features.shape[1], grad.shape[1])
    for pairs in blocks(neighbours):
        gathered = features.index_select(0, pairs.source).split(pairs.counts)
        arriving = grad.index_select(0, pairs.row).split(pairs.counts)
        for tap, (x, g) in enumerate(zip(gathered, arriving, strict=True)):
            total[tap].addmm_(x.t(), g)
    return total
