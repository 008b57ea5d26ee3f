"""Halving of the resolution between stages. Odd sizes round up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from visionssm.layers.cells import into_cells
from visionssm.layers.conv import MapConv2d
from visionssm.layers.linear import linear


class PatchMerging(nn.Module):
    """2×2 neighbours side by side in the channels, LayerNorm, linear to `out_dim` (Liu et al. 2021, Swin)."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, **factory)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        cells = into_cells(x, 2).permute(0, 1, 3, 4, 2, 5)  # row phase first: (0, 0), (1, 0), (0, 1), (1, 1)
        return linear(self.reduction, self.norm(cells.flatten(3)))


class StridedConvDownsample(nn.Sequential):
    """3×3 stride-2 convolution, then LayerNorm. Slots are numbered as in VMamba's files."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        modules["1"] = MapConv2d(dim, out_dim, kernel_size=3, stride=2, padding=1, **factory)
        modules["3"] = nn.LayerNorm(out_dim, **factory)
        super().__init__(modules)
