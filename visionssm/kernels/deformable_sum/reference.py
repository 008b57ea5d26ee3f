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


def deformable_sum_by_corners(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`deformable_sum_reference` by indexing: `grid_sample` lacks second and forward-mode derivatives."""
    _, height, width, _, channels = value.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    steps, columns, rows = (torch.arange(n, dtype=torch.int64, device=value.device) for n in (POINTS, width, height))
    base = torch.stack([steps // KERNEL, steps % KERNEL], -1).to(dtype) - KERNEL // 2  # (9, 2): x is the slow one
    away = scale * (base + offset.to(dtype))  # from the pixel: (B, H, W, G, 9, 2)
    first = away.detach().floor()
    share = away - first
    pixel = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # (H, W, 2)
    corner = first.nan_to_num(-1.0, -1.0, -1.0).long() + pixel[:, :, None, None]
    pixels = value.to(dtype).flatten(1, 2)  # (B, H·W, G, D)
    y = torch.zeros_like(value, dtype=dtype)
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, row = corner[..., 0] + right, corner[..., 1] + below  # (B, H, W, G, 9)
        inside = (x >= 0) & (x < width) & (row >= 0) & (row < height)
        place = torch.where(inside, row * width + x, 0).permute(0, 1, 2, 4, 3).flatten(1, 3)  # (B, H·W·9, G)
        samples = pixels.gather(1, place[..., None].expand(-1, -1, -1, channels))
        samples = samples.unflatten(1, (height, width, POINTS)).transpose(3, 4)  # (B, H, W, G, 9, D)
        x_share, y_share = share.unbind(-1)
        weight = (x_share if right else 1 - x_share) * (y_share if below else 1 - y_share) * mask.to(dtype)
        y = y + (torch.where(inside, weight, 0.0)[..., None] * samples).sum(-2)
    return y.to(value.dtype)
