"""Stems: from an NCHW image to the first channels-last map, at a quarter of the resolution."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from visionssm.layers.conv import MapConv2d
from visionssm.layers.memory_format import channels_last


def image_to_map(x: Tensor) -> Tensor:
    """(B, C, H, W) image, any memory layout, to a contiguous (B, H, W, C) map."""
    return channels_last(x).permute(0, 2, 3, 1)


class PatchStem(nn.Sequential):
    """Non-overlapping 4×4 patches, then LayerNorm: sizes round down. Slots are numbered as in VMamba's files."""

    def __init__(self, in_chans: int, dim: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        modules["0"] = MapConv2d(in_chans, dim, kernel_size=4, stride=4, **factory)
        modules["2"] = nn.LayerNorm(dim, **factory)
        super().__init__(modules)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌊H/4⌋, ⌊W/4⌋, dim)."""
        return super().forward(image_to_map(x))


class OverlappingStem(nn.Sequential):
    """Two 3×3 stride-2 convolutions, LayerNorm after each, GELU between: sizes round up."""

    def __init__(self, in_chans: int, dim: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        modules["0"] = MapConv2d(in_chans, dim // 2, kernel_size=3, stride=2, padding=1, **factory)
        modules["2"] = nn.LayerNorm(dim // 2, **factory)
        modules["4"] = nn.GELU()
        modules["5"] = MapConv2d(dim // 2, dim, kernel_size=3, stride=2, padding=1, **factory)
        modules["7"] = nn.LayerNorm(dim, **factory)
        super().__init__(modules)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
        return super().forward(image_to_map(x))
