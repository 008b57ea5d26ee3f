"""Triton backend of the deformable sum: strides, tiles and launches of `gpu_kernels`.

Gradients of the values are float32 atomic sums: the order of additions, hence the last bits, vary from run to run.
Where PyTorch is told to be deterministic, they are those of the definition, which adds in a fixed order and takes many
times the memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.deformable_sum import gpu_kernels
from visionssm.kernels.deformable_sum.reference import POINTS, deformable_sum_by_corners
from visionssm.kernels.layout import with_packed_pairs, with_unit_stride

TILE = 512  # numbers of a block of pixels and channels
WIDEST_BLOCK = 64  # channels of a tile
NUM_WARPS = 4


def forward(value: Tensor, offset: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """y; shapes are those of `visionssm.kernels.deformable_sum`."""
    y, launch = forward_launch(value, offset, mask, scale=scale)
    launch.run()
    return y


def backward(
    grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, offset and mask."""
    grad_value, grad_offset, grad_mask, launch = backward_launch(grad_y, value, offset, mask, scale=scale)
    launch.run()
    if grad_value is None:
        grad_value = _grad_value_of_definition(grad_y, value, offset, mask, scale)
    return grad_value.to(value.dtype), grad_offset, grad_mask


def _grad_value_of_definition(grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    _, pull_back, *_ = torch.func.vjp(lambda x: deformable_sum_by_corners(x, offset, mask, scale), value.float())
    found: Tensor = pull_back(grad_y.float())[0]
    return found


def forward_launch(value: Tensor, offset: Tensor, mask: Tensor, *, scale: float) -> tuple[Tensor, KernelLaunch]:
    """y, which the launch fills, and the launch; on meta tensors, only to be compiled."""
    y = value.new_empty(value.shape)
    tensors = {"value": value.contiguous(), "offset": with_packed_pairs(offset), "mask": with_unit_stride(mask), "y": y}
    return y, _launch(gpu_kernels.deformable_forward, tensors, scale)


def backward_launch(
    grad_y: Tensor, value: Tensor, offset: Tensor, mask: Tensor, *, scale: float
) -> tuple[Tensor | None, Tensor, Tensor, KernelLaunch]:
    """The gradients, which the launch fills (that of the values in float32 or not at all), and the launch."""
    in_order = torch.are_deterministic_algorithms_enabled()
    grads = {
        "grad_value": None if in_order else value.new_zeros(value.shape, dtype=torch.float32),
        "grad_offset": offset.new_empty(offset.shape),
        "grad_mask": mask.new_empty(mask.shape),
    }
    tensors = {
        **{"grad_y": grad_y.contiguous(), "value": value.contiguous()},
        **{"offset": with_packed_pairs(offset), "mask": with_unit_stride(mask)},
        **grads,
    }
    return *grads.values(), _launch(gpu_kernels.deformable_backward, tensors, scale)  # type: ignore[return-value]


def _launch(kernel: Any, tensors: dict[str, Any], scale: float) -> KernelLaunch:
    """One program for every block of pixels and group."""
    batch, height, width, groups, channels = tensors["value"].shape
    block_d = min(WIDEST_BLOCK, triton.next_power_of_2(max(channels, 1)))
    block = TILE // block_d
    n_pixels = batch * height * width
    arguments: dict[str, Tensor | int | None] = {
        **tensors,
        **dict(zip(("offset_b", "offset_h", "offset_w", "offset_g"), tensors["offset"].stride(), strict=False)),
        **dict(zip(("mask_b", "mask_h", "mask_w", "mask_g"), tensors["mask"].stride(), strict=False)),
        **{"n_pixels": n_pixels, "height": height, "width": width, "groups": groups},
    }
    constants = {"D": channels, "SCALE": float(scale), "POINTS": POINTS, "BLOCK": block, "BLOCK_D": block_d}
    constants["NUMBER"] = tl.int32 if n_pixels + block < 2**31 else tl.int64
    return KernelLaunch(kernel, (triton.cdiv(n_pixels, block) * groups,), arguments, constants, NUM_WARPS)


def launches(
    *, height: int, width: int, groups: int, channels: int, batch: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, KernelLaunch]:
    """The forward and backward launch of a training step at a shape, on meta tensors: to be compiled, not run.

    Args:
        height, width, groups, channels, batch: H, W, G, D and B.
        dtype: of value, offset and mask.
    """

    def meta(*shape: int) -> Tensor:
        return torch.empty((batch, height, width, groups, *shape), dtype=dtype, device="meta")

    value, offset, mask = meta(channels), meta(POINTS, 2), meta(POINTS)
    y, forward = forward_launch(value, offset, mask, scale=1.0)
    *_, backward = backward_launch(y, value, offset, mask, scale=1.0)
    return {"forward": forward, "backward": backward}
