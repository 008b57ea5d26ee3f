"""Input checks shared by the operators: each names the argument, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

_MOST_SIGNATURES = 4096


def check_once(right: set[object], tensors: Iterable[Tensor | None], check: Callable[[], None]) -> None:
    """Run a check of shapes, dtypes and devices, once for all tensors that agree in these; `right` remembers them.

    It runs each time for compilers, whose sizes may be symbols, and for tensors of other types.
    """
    signature = None if torch.compiler.is_compiling() else _signature(tensors)
    if signature is None:
        check()
    elif signature not in right:
        check()
        if len(right) >= _MOST_SIGNATURES:
            right.clear()
        right.add(signature)


def _signature(tensors: Iterable[Tensor | None]) -> object:
    """Shapes, dtypes and devices of plain tensors, None if there are others."""
    found: list[object] = []
    for x in tensors:
        if x is not None and type(x) not in (Tensor, Parameter):
            return None
        found.append(None if x is None else (x.shape, x.dtype, x.device))
    return tuple(found)


def check_shape(name: str, x: Tensor, dims: tuple[str, ...], sizes: Mapping[str, int] | None = None) -> None:
    """Raise ValueError unless `x` has the named dimensions with the known sizes."""
    sizes = sizes or {}
    if x.ndim == len(dims) and x.shape == tuple(map(sizes.get, dims, x.shape)):  # fast: this runs ten times a scan
        return
    expected = tuple(sizes.get(dim) for dim in dims)
    shown = ", ".join(dim if e is None else f"{dim}={e}" for dim, e in zip(dims, expected, strict=True))
    raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({shown})")


def check_floating(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless every tensor is floating point."""
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating-point dtype")


def check_same_device(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all tensors are on the device of the first."""
    (first, x), *rest = tensors.items()
    for name, other in rest:
        if other.device != x.device:
            raise ValueError(f"{name} is on {other.device} and {first} on {x.device}; move them to one device")


def check_order(order: Tensor, pixels: int) -> None:
    """Raise ValueError unless `order` is an integer table of pixel numbers below `pixels` (−1: outside the map).

    Reading the table costs a pass (and on a GPU a synchronisation), so the largest entry is remembered on the tensor.
    A table that is first seen while a CUDA graph is captured is not read, which would end the capture: as in compiled
    graphs, a number that is no pixel counts as a step outside the map then.
    """
    if order.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"order has dtype {order.dtype}; expected int32")
    holds_values = type(order) is Tensor and order.device.type != "meta"  # fake and functional tensors do not
    if torch.compiler.is_compiling() or order.numel() == 0 or not holds_values:
        return
    # Tensors made in inference mode have no version counter, so a later change of the table would not be noticed.
    version = None if order.is_inference() else order._version
    known = getattr(order, "_visionssm_range", None)
    if known is None or version is None or known[0] != version:
        if order.device.type != "cpu" and torch.cuda.is_current_stream_capturing():
            return
        known = (version, int(order.min()), int(order.max()))
        order._visionssm_range = known  # type: ignore[attr-defined]
    _, low, high = known
    if low < -1 or high >= pixels:
        raise ValueError(
            f"order names pixels {low} to {high}, but the map has pixels 0 to {pixels - 1} (−1 for a step outside)"
        )
