"""The deformable sum on CPUs: addresses and threads for the compiled passes of `cpu_kernels`.

The kernels compute in float32. Half-precision inputs are converted, and results converted back to the input's dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.deformable_sum.cpu_kernels import (
    deformable_backward,
    deformable_forward,
    deformable_reach,
)
from visionssm.kernels.layout import addresses, packed, placed, with_packed_pairs, with_unit_stride

TASKS_A_THREAD = 2  # of a backward pass at least, so that threads end at about the same time
_AXES = ("batch", "row", "column", "group")
LEAST_BAND = 4  # rows of a backward task: those around the band are visited too


def forward(value: Tensor, offset: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """y; shapes are those of `visionssm.kernels.deformable_sum`."""
    batch, height, width, groups, channels = value.shape
    values = packed(value.detach())
    y, length = values.new_empty(value.shape), values.new_tensor(scale)
    offset, mask = with_packed_pairs(offset.detach().float()), with_unit_stride(mask.detach().float())
    threads.run_kernel(
        deformable_forward,
        batch * height,
        height=height,
        width=width,
        groups=groups,
        channels=channels,
        **placed("offset", offset, *_AXES),
        **placed("mask", mask, *_AXES),
        **addresses(scale=length, value=values, y=y),
    )
    return y.to(value.dtype)


def backward(
    grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, offset and mask."""
    batch, height, width, groups, channels = value.shape
    values, grad = packed(value.detach()), packed(grad_y.detach())
    offsets, masks = with_packed_pairs(offset.detach().float()), with_unit_stride(mask.detach().float())
    grad_value, length = values.new_zeros(value.shape), values.new_tensor(scale)
    grad_offset, grad_mask = values.new_empty(offset.shape), values.new_empty(mask.shape)
    bands = _bands(batch, height)
    reach = values.new_empty(batch, height, 2)
    sizes = {"height": height, "width": width, "groups": groups}
    inputs = {**sizes, **placed("offset", offsets, *_AXES), **addresses(scale=length, reach=reach)}
    if bands > 1:
        threads.run_kernel(
            deformable_reach,
            batch * height,
            **inputs,
        )
    threads.run_kernel(
        deformable_backward,
        batch * bands,
        channels=channels,
        bands=bands,
        **inputs,
        **placed("mask", masks, *_AXES),
        **addresses(value=values, grad=grad, grad_value=grad_value, grad_offset=grad_offset, grad_mask=grad_mask),
    )
    return grad_value.to(value.dtype), grad_offset.to(offset.dtype), grad_mask.to(mask.dtype)


def _bands(batch: int, height: int) -> int:
    """Into how many bands of rows each image is split for a backward pass."""
    if batch == 0 or torch.get_num_threads() == 1:
        return 1
    wanted = math.ceil(TASKS_A_THREAD * torch.get_num_threads() / batch)
    return max(1, min(wanted, height // LEAST_BAND))
