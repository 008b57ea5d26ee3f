"""Gated linear attention in chunks of matrix products: any float dtype and device, differentiable, memory linear in L.

Inside a chunk, every step reads every earlier one with the decays between them; from chunk to chunk there is a state,
which is a linear recurrence of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.kernels.linear_recurrence import linear_recurrence
from visionssm.kernels.ssd.reference import segment_sums

STEPS = 16  # of a chunk: the decays between its steps are STEPS² numbers per key channel


def gated_linear_attention_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, reverse: bool = False
) -> Tensor:
    """`reference.gated_linear_attention_reference` with all chunks at once.

    Decays are sums of logarithms over the steps of a segment, never differences of running sums, which would cancel.
    Steps that fill the last chunk up add nothing and decay nothing.
    """
    dtype, steps = q.dtype, q.shape[1]
    compute = torch.promote_types(dtype, torch.float32)
    missing = -steps % STEPS

    def chunks(x: Tensor) -> Tensor:
        """(B, L, H, ·) to (B, H, chunks, Q, ·)."""
        x = x.to(compute)
        x = F.pad(x.flip(1) if reverse else x, (0, 0, 0, 0, 0, missing))
        return x.unflatten(1, (-1, STEPS)).permute(0, 3, 1, 2, 4)

    if not steps:
        return v.to(dtype)
    q, k, v, log_decay = chunks(q), chunks(k), chunks(v), chunks(log_decay)
    # (B, H, C, N, Q, Q): what entry s is worth after step t; step t itself reads what is left after t − 1.
    left = segment_sums(log_decay.transpose(-1, -2)).exp()
    between = F.pad(left[..., :-1, :], (0, 0, 1, 0))
    scores = torch.einsum("...tn,...sn,...nts->...ts", q, k, between)
    added = (k * left[..., -1, :].transpose(-1, -2)).transpose(-1, -2) @ v  # (B, H, C, N, P) by each chunk
    before = F.pad(log_decay.cumsum(-2)[..., :-1, :], (0, 0, 1, 0)).exp()  # decay from the chunk's start to each step
    states = linear_recurrence(log_decay.sum(-2).exp()[..., None], added, dim=2)
    states = F.pad(states[:, :, :-1], (0, 0, 0, 0, 1, 0))  # before each chunk
    y = scores @ v + (q * before) @ states
    y = y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :steps]
    return (y.flip(1) if reverse else y).to(dtype)
