"""The deformable sum, defined: bilinear samples by `grid_sample`, any float dtype, differentiable once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = 3
POINTS = KERNEL**2


def deformable_sum_reference(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`visionssm.kernels.deformable_sum` with the same arguments; writes the nine samples of every channel."""
    batch, height, width, groups, _ = value.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    steps = torch.arange(POINTS, dtype=torch.int64, device=value.device)
    base = torch.stack([steps // KERNEL, steps % KERNEL], -1).to(dtype) - KERNEL // 2  # (9, 2): x is the slow one
    columns, rows = (torch.arange(n, device=value.device, dtype=dtype) for n in (width, height))
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # (H, W, 2)
    position = pixels[:, :, None, None] + scale * (base + offset.to(dtype))  # (B, H, W, G, 9, 2)

    # grid_sample's coordinates: −1 and 1 are the outer borders of the first and the last pixel
    extent = torch.stack([torch.full((), n, device=value.device, dtype=dtype) for n in (width, height)])
    grid = (2 * position + 1) / extent - 1
    grid = grid.permute(0, 3, 4, 1, 2, 5).flatten(0, 1).flatten(1, 2)  # (B·G, 9·H, W, 2)
    maps = value.to(dtype).permute(0, 3, 4, 1, 2).flatten(0, 1)  # (B·G, D, H, W)
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.to(dtype).permute(0, 3, 4, 1, 2).flatten(0, 1)[:, None]  # (B·G, 1, 9, H, W)
    y = (samples.unflatten(2, (POINTS, height)) * weights).sum(2)  # (B·G, D, H, W)
    return y.unflatten(0, (batch, groups)).permute(0, 3, 4, 1, 2).to(value.dtype)
