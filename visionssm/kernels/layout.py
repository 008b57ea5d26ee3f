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


def address_and_strides(x: Tensor) -> tuple[int, int, int, int]:
    """Address, and strides over the first three of four dimensions."""
    first, second, third, _ = x.stride()
    return x.data_ptr(), first, second, third
