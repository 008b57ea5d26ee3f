"""Triton backend of the linear recurrence: strides, tiles and launches of `gpu_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.linear_recurrence import gpu_kernels

STEPS = 16  # a chunk, which a thread holds whole
COLUMNS = 32  # neighbouring numbers of a program: a row is one or two cache lines
NUM_WARPS = 1


def states(a: Tensor, b: Tensor, state: Tensor | None, *, reverse: bool, adjoint: bool) -> Tensor:
    """All states; the arguments are those of `op.linear_recurrence_op`, of one dtype, float32 or complex64."""
    out, launch = states_launch(a, b, state, reverse=reverse, adjoint=adjoint)
    launch.run()
    return out


def states_launch(
    a: Tensor, b: Tensor, state: Tensor | None, *, reverse: bool, adjoint: bool
) -> tuple[Tensor, KernelLaunch]:
    """The states, which the launch fills, and the launch; on meta tensors, only to be compiled."""
    outer, n_steps, width = b.shape
    given = (a, b) if state is None else (a, b, state)
    a, b, *rest = (x.resolve_conj().resolve_neg().contiguous() for x in given)
    out = torch.empty_like(b)
    strides = (0 if size == 1 else stride for size, stride in zip(a.shape, a.stride(), strict=True))
    arguments: dict[str, Tensor | int | None] = {
        "a": _floats(a),
        "b": _floats(b),
        "start": _floats(rest[0]) if rest else None,
        "out": _floats(out),
        **dict(zip(("a_outer", "a_step", "a_inner"), strides, strict=True)),
        "n_steps": n_steps,
        "width": width,
    }
    constants = {
        "PAIRS": b.is_complex(),
        "REVERSE": reverse,
        "ADJOINT": adjoint,
        "STEPS": STEPS,
        "COLUMNS": COLUMNS,
    }
    grid = (outer * triton.cdiv(width, COLUMNS),)
    launch = KernelLaunch(gpu_kernels.linear_recurrence_states, grid, arguments, constants, NUM_WARPS)
    return out, launch


def launches(
    *,
    steps: int,
    inner: int,
    outer: int = 1,
    dtype: torch.dtype = torch.complex64,
    varying: bool = False,
    initial_state: bool = False,
) -> dict[str, KernelLaunch]:
    """The forward and backward launch of a training step at a shape, on meta tensors: to be compiled, not run.

    Args:
        steps, inner, outer: T, and the product of the axes after and before it.
        dtype: float32 or complex64.
        varying: whether every step has factors of its own.
        initial_state: whether the sequence starts from a given state.
    """

    def meta(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    a, b = meta(1, steps if varying else 1, inner), meta(outer, steps, inner)
    state = meta(outer, inner) if initial_state else None
    _, forward = states_launch(a, b, state, reverse=False, adjoint=False)
    _, backward = states_launch(a, b, None, reverse=True, adjoint=True)
    return {"forward": forward, "backward": backward}


def _floats(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
