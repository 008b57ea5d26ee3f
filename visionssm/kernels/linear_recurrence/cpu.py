"""The linear recurrence on CPUs: addresses and threads for the compiled pass of `cpu_kernels`.

Against the PyTorch form of `scan` on one core, for 32 to 1024 steps of 64 to 65536 numbers, the forward pass is 1.1 to
14 times as fast, and a training step 0.9 to 7 times: 1.8 and 7.2 for 1024 steps of 64 complex numbers, 13.7 and 5.8 for
1024 of 1024 real ones; about even where 32 steps of 65536 numbers are limited by memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.layout import addresses
from visionssm.kernels.linear_recurrence.cpu_kernels import TILE, recurrence


def states(a: Tensor, b: Tensor, state: Tensor | None, *, reverse: bool, adjoint: bool) -> Tensor:
    """All states; the arguments are those of `op.linear_recurrence_op`, of one dtype, float32 or complex64."""
    given = (a, b) if state is None else (a, b, state)
    a, b, *rest = (x.detach().resolve_conj().resolve_neg().contiguous() for x in given)
    out = torch.empty_like(b)
    outer, n_steps, inner = b.shape
    floats = 2 if b.is_complex() else 1
    a_strides = tuple(0 if size == 1 else floats * stride for size, stride in zip(a.shape, a.stride(), strict=True))
    width = inner * floats
    threads.run_kernel(
        recurrence,
        outer * math.ceil(width / TILE),
        n_steps=n_steps,
        width=width,
        pairs=floats == 2,
        backwards=reverse,
        adjoint=adjoint,
        a_outer=a_strides[0],
        a_step=a_strides[1],
        a_inner=0 if a.shape[2] == 1 else 1,
        **addresses(a=a, b=b, state=rest[0] if rest else None, out=out),
    )
    return out
