"""Tensors as compiled kernels read them: which may stay views, which are packed, their addresses and strides."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def with_unit_stride(x: Tensor) -> Tensor:
    """`x` with neighbouring elements in its last dimension; a view that has them stays a view."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def with_packed_pairs(x: Tensor) -> Tensor:
    """`x`, whose last dimension is 2, with neighbouring pairs in the one before; a view that has them stays a view."""
    return x if x.stride()[-2:] == (2, 1) else x.contiguous()


def rows(x: Tensor) -> Tensor:
    """`with_unit_stride` in float32."""
    return with_unit_stride(x.float())


def packed(x: Tensor | None) -> Any:
    """`x` in float32 without gaps, or None."""
    return None if x is None else x.float().contiguous()


def address(x: Tensor | None) -> int:
    """Where the values of `x` are; 0 for None and for nothing."""
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def placed(name: str, x: Tensor, *axes: str) -> dict[str, int]:
    """Where a kernel finds `x`: its address by its name, and `name_axis`, the stride over each of its first axes."""
    found = {name: x.data_ptr()}
    for axis, stride in zip(axes, x.stride(), strict=False):
        found[f"{name}_{axis}"] = stride
    return found


def addresses(**tensors: Tensor | None) -> dict[str, int]:
    """Where the values of tensors without gaps are, by name."""
    return {name: address(x) for name, x in tensors.items()}
