"""Halving of the resolution between stages. Odd sizes round up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.layers.conv import MapConv2d


class PatchMerging(nn.Module):
    """2×2 neighbours side by side in the channels, LayerNorm, linear to `out_dim` (Liu et al. 2021, Swin)."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, **factory)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        _, height, width, _ = x.shape
        exporting = torch.compiler.is_exporting()  # then sizes may be open, and a zero is always appended
        x = F.pad(x, (0, 0, 0, 1, 0, 1) if exporting else (0, 0, 0, width % 2, 0, height % 2))
        # Row phase first: (0, 0), (1, 0), (0, 1), (1, 1).
        phases = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        if exporting:
            phases = [phase.narrow(1, 0, (height + 1) // 2).narrow(2, 0, (width + 1) // 2) for phase in phases]
        return self.reduction(self.norm(torch.cat(phases, dim=-1)))


class StridedConvDownsample(nn.Sequential):
    """3×3 stride-2 convolution, then LayerNorm. Slots are numbered as in VMamba's files."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        modules["1"] = MapConv2d(dim, out_dim, kernel_size=3, stride=2, padding=1, **factory)
        modules["3"] = nn.LayerNorm(out_dim, **factory)
        super().__init__(modules)
