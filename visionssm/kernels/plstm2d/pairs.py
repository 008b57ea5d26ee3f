"""The two-dimensional recurrence of pLSTM as attention: pairwise weights by a kernel, and two matrix products.

For states of one number per key and value channel (all inner sizes 1, as in every published model) the weight of a
source for a reader, summed over directions, does not depend on queries, keys and values:

    out_t = Σ_s weights[t, s] (q_t · k_s)/√DK v_s
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import select_backend
from visionssm.kernels.plstm2d.gates import Gates
from visionssm.kernels.plstm2d.op import plstm2d_pairs_op

LONGEST_ROW = 64  # for which the GPU kernels have tiles


def pairs_apply(q: Tensor, k: Tensor, v: Tensor, gates: Gates, max_block: int) -> bool:
    """Whether there is a kernel for these shapes, dtype and device: scalar gates, and a grid that is a single block."""
    inner = (q.shape[-1], k.shape[-1], v.shape[-1], *gates.mark_l.shape[-3:])
    one_block = max(q.shape[1], q.shape[2]) <= min(max_block, LONGEST_ROW)
    return one_block and q.dtype == torch.float32 and set(inner) == {1} and select_backend(q) in ("cpu", "triton")


def plstm2d_pairs(q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None) -> Tensor:
    """The sum over directions of `visionssm.kernels.plstm2d`; the gates have an axis for them, 1 or 4, after the batch.

    Args:
        q, k, v: (B, X, Y, ·, 1) float32.
        gates: (B, K, X, Y, 1, …).
        direct: (B, X, Y, 1, 1, 1, 1) or None.

    Returns:
        (B, X, Y, DV, 1).
    """
    # Inner axes of size one disappear in the last of the map.
    numbers = [None if x is None else x.flatten(3) for x in gates]
    weights: Tensor = plstm2d_pairs_op(*numbers, None if direct is None else direct.flatten(2))
    q, k, v = (x.squeeze(-1).flatten(1, 2) for x in (q / q.shape[3] ** 0.5, k, v))  # (B, C, ·)
    out = (q @ k.mT * weights) @ v
    return out.unflatten(1, gates.source_r.shape[2:4]).unsqueeze(-1)
