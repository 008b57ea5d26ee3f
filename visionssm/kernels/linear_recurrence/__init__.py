"""Linear recurrence h_t = a_t h_{t−1} + b_t with real or complex factors (ConvS5, S5, LRU, RetNet-like models)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested, select_backend
from visionssm.kernels.checks import check_same_device
from visionssm.kernels.linear_recurrence.export import exportable_linear_recurrence
from visionssm.kernels.linear_recurrence.op import linear_recurrence_op
from visionssm.kernels.linear_recurrence.reference import linear_recurrence_reference
from visionssm.kernels.linear_recurrence.scan import linear_recurrence_scan
from visionssm.kernels.transforms import forward_mode, transformed

__all__ = ["linear_recurrence", "linear_recurrence_step"]


def linear_recurrence(
    a: Tensor, b: Tensor, *, dim: int, initial_state: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """All states of h_t = a_t ⊙ h_{t−1} + b_t along one axis.

    Compiled kernels run it in float32 and complex64 on CPUs and GPUs. Other dtypes and devices run PyTorch operations:
    fused steps one after the other where a step is wide, else a scan of logarithmic depth. Gradients cost one
    recurrence more and keep only `a` and the states; second derivatives work.

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
        ValueError: shapes, dtypes or devices disagree, `dim` is no axis of `b` or an empty one, or complex numbers are
            exported to ONNX, which has none.

    Examples:
        >>> import torch, visionssm
        >>> visionssm.linear_recurrence(torch.tensor(0.5), torch.ones(4), dim=0)
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
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
    backend = select_backend(b)
    if backend == "export" and dtype.is_complex:
        raise ValueError(
            "complex numbers cannot be exported to ONNX, which has none; write the recurrence with its real and"
            " imaginary parts, h_re' = a_re h_re − a_im h_im + b_re and h_im' = a_re h_im + a_im h_re + b_im"
        )
    with without_autocast(b.device.type):
        a = a.to(dtype).reshape((1,) * (b.ndim - a.ndim) + tuple(a.shape))  # full rank, so that axes have numbers
        b = b.to(dtype)
        state = None if initial_state is None else initial_state.to(dtype).expand(_without(b, axis))
        if backend in ("cpu", "triton") and dtype in (torch.float32, torch.complex64):
            return _on_compiled_kernels(a, b, state, axis, reverse)
        a, b = a.movedim(axis, 0), b.movedim(axis, 0)  # the first axis of a then is 1 or T
        if reverse:
            a, b = a.flip(0), b.flip(0)
        if backend == "export":
            h = exportable_linear_recurrence(a, b, state)
        elif reference_requested() or forward_mode() or transformed():
            h = linear_recurrence_reference(a, b, state)
        else:  # float64 or a device without compiled kernels
            h = linear_recurrence_scan(a, b, state)
        return (h.flip(0) if reverse else h).movedim(0, axis)


def _on_compiled_kernels(a: Tensor, b: Tensor, state: Tensor | None, axis: int, reverse: bool) -> Tensor:
    """The axes before time as one and those after it as one, O and I. Factors shared along all of either stay one."""
    before, after = b.shape[:axis], b.shape[axis + 1 :]
    outer, inner = math.prod(before), math.prod(after)
    steps = a.shape[axis]
    of_outer, of_inner = a.shape[:axis], a.shape[axis + 1 :]
    if any(n != 1 for n in of_outer):
        of_outer = before
    if any(n != 1 for n in of_inner):
        of_inner = after
    factors = a.expand(*of_outer, steps, *of_inner).reshape(math.prod(of_outer), steps, math.prod(of_inner))
    start = None if state is None else state.reshape(outer, inner)
    h = linear_recurrence_op(factors, b.reshape(outer, b.shape[axis], inner), start, reverse)
    return h.view(b.shape)


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

    Examples:
        >>> import torch, visionssm
        >>> visionssm.linear_recurrence_step(torch.tensor(0.5), torch.ones(2), torch.tensor([0.0, 4.0]))
        tensor([1., 3.])
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
