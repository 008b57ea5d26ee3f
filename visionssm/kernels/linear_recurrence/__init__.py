"""Linear recurrence h_t = a_t h_{t−1} + b_t with real or complex factors (ConvS5, S5, LRU, RetNet-like models)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested
from visionssm.kernels.checks import check_same_device
from visionssm.kernels.linear_recurrence.reference import linear_recurrence_reference
from visionssm.kernels.linear_recurrence.scan import linear_recurrence_scan

__all__ = ["linear_recurrence", "linear_recurrence_step"]


def linear_recurrence(
    a: Tensor, b: Tensor, *, dim: int, initial_state: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """All states of h_t = a_t ⊙ h_{t−1} + b_t along one axis.

    It runs as PyTorch operations on every device: fused steps one after the other where a step is wide, else a scan of
    logarithmic depth. Gradients cost one recurrence more and keep only `a` and the states; second derivatives work.

    Args:
        a: factors, real or complex, broadcastable to b's shape; size 1 along `dim` means the same factors at every
            step, which takes no memory and less time.
        b: (…, T, …) additions with T ≥ 1 steps in axis `dim`, real or complex.
        dim: axis of time in `b`; negative numbers count from the end.
        initial_state: h_{−1}, of b's shape without `dim` or broadcastable to it; None for zeros.
        reverse: run from the last step to the first, h_t = a_t ⊙ h_{t+1} + b_t; the initial state is then h_T.

    Returns:
        b's shape: the states in the wider of the dtypes, at least float32 or complex64, also under autocast. The last
        one (with `reverse` the first) is the `initial_state` from which the next part of a sequence goes on.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or `dim` is no axis of `b` or an empty one.
    """
    given = {"a": a, "b": b} | ({} if initial_state is None else {"initial_state": initial_state})
    _check_numbers(given)
    check_same_device(given)
    if not -b.ndim <= dim < b.ndim:
        raise ValueError(f"dim={dim} is no axis of b, which has shape {tuple(b.shape)}")
    axis = dim % b.ndim
    if b.shape[axis] == 0:
        raise ValueError(f"b has shape {tuple(b.shape)}: no steps along dim={dim}; give at least one")
    _check_broadcast("a", a, tuple(b.shape), "b's shape")
    if initial_state is not None:
        _check_broadcast("initial_state", initial_state, _without(b, axis), f"b's shape without dim={dim}")

    dtype = _state_dtype(given.values())
    with without_autocast(b.device.type):
        # full rank first, so that time can lead; the first axis then is a.shape[axis] = 1 or T
        a = a.to(dtype).reshape((1,) * (b.ndim - a.ndim) + tuple(a.shape)).movedim(axis, 0)
        b = b.to(dtype).movedim(axis, 0)
        if reverse:
            a, b = a.flip(0), b.flip(0)
        state = None if initial_state is None else initial_state.to(dtype).expand(b.shape[1:])
        plain = reference_requested() or torch.onnx.is_in_onnx_export()
        h = (linear_recurrence_reference if plain else linear_recurrence_scan)(a, b, state)
        return (h.flip(0) if reverse else h).movedim(0, axis)


def linear_recurrence_step(a: Tensor, b: Tensor, state: Tensor | None) -> Tensor:
    """One step of `linear_recurrence`, a ⊙ state + b, for generation with constant memory.

    Args:
        a: factors, broadcastable to b's shape.
        b: additions.
        state: h_{t−1}, broadcastable to b's shape; None for zeros.

    Returns:
        h_t of b's shape, in the wider of the dtypes, at least float32 or complex64.

    Raises:
        ValueError: shapes, dtypes or devices disagree.
    """
    given = {"a": a, "b": b} | ({} if state is None else {"state": state})
    _check_numbers(given)
    check_same_device(given)
    _check_broadcast("a", a, tuple(b.shape), "b's shape")
    dtype = _state_dtype(given.values())
    if state is None:
        return b.to(dtype)
    _check_broadcast("state", state, tuple(b.shape), "b's shape")
    with without_autocast(b.device.type):
        return torch.addcmul(b.to(dtype), a.to(dtype), state.to(dtype))


def _state_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def _without(x: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(x.shape[:axis]) + tuple(x.shape[axis + 1 :])


def _check_numbers(given: dict[str, Tensor]) -> None:
    for name, x in given.items():
        if not (x.is_floating_point() or x.is_complex()):
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating-point or complex dtype")


def _check_broadcast(name: str, x: Tensor, shape: tuple[int, ...], what: str) -> None:
    fits = x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(reversed(x.shape), reversed(shape)))
    if not fits:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected one that can be broadcast to {shape}, {what}")
