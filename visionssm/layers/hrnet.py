"""Convolutional parts of a high-resolution network (HRNet, Wang et al. 2020, arXiv 1908.07919).

Tensors are NCHW in PyTorch's channels_last memory format, since nothing here but convolutions reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.layers.conv import PreciseConv2d
from visionssm.layers.leaf import leaf_function


def same_conv(in_dim: int, out_dim: int, kernel: int, *, stride: int = 1, groups: int = 1, **factory: Any) -> nn.Conv2d:
    """Convolution without bias that keeps the size, or rounds it up when its stride halves it."""
    return PreciseConv2d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=False, **factory)


def conv_norm_relu(in_dim: int, out_dim: int, stride: int, **factory: Any) -> nn.Sequential:
    """3×3 convolution, BatchNorm, ReLU; keys `0` and `1`."""
    return nn.Sequential(
        same_conv(in_dim, out_dim, 3, stride=stride, **factory),
        nn.BatchNorm2d(out_dim, **factory),
        nn.ReLU(inplace=True),
    )


class Bottleneck(nn.Module):
    """ResNet's: 1×1, 3×3 and 1×1 convolutions with BatchNorm, and a shortcut that is projected if the width changes."""

    def __init__(self, in_dim: int, out_dim: int, **factory: Any) -> None:
        super().__init__()
        hidden = out_dim // 4
        self.conv1, self.bn1 = same_conv(in_dim, hidden, 1, **factory), nn.BatchNorm2d(hidden, **factory)
        self.conv2, self.bn2 = same_conv(hidden, hidden, 3, **factory), nn.BatchNorm2d(hidden, **factory)
        self.conv3, self.bn3 = same_conv(hidden, out_dim, 1, **factory), nn.BatchNorm2d(out_dim, **factory)
        self.downsample: nn.Module = nn.Identity()
        if in_dim != out_dim:
            self.downsample = nn.Sequential(
                same_conv(in_dim, out_dim, 1, **factory), nn.BatchNorm2d(out_dim, **factory)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) to (B, out_dim, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ConvNormReLU(nn.Module):
    """Convolution, BatchNorm, ReLU; keys `conv` and `bn`."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int, *, stride: int = 1, **factory: Any) -> None:
        super().__init__()
        self.conv = same_conv(in_dim, out_dim, kernel, stride=stride, **factory)
        self.bn = nn.BatchNorm2d(out_dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) to (B, out_dim, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def fusion(dims: Sequence[int], source: int, target: int, **factory: Any) -> nn.Module:
    """Convolutions that bring one branch to the width of another, and to its resolution if that is lower."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            same_conv(dims[source], dims[target], 1, **factory), nn.BatchNorm2d(dims[target], **factory)
        )
    steps = []
    for step in range(target - source):
        last = step == target - source - 1
        width = dims[target] if last else dims[source]
        modules = [
            same_conv(dims[source], dims[source], 3, stride=2, groups=dims[source], **factory),
            nn.BatchNorm2d(dims[source], **factory),
            same_conv(dims[source], width, 1, **factory),
            nn.BatchNorm2d(width, **factory),
        ]
        steps.append(nn.Sequential(*modules, *([] if last else [nn.ReLU(inplace=True)])))
    return nn.Sequential(*steps)


@leaf_function
def enlarge(x: Tensor, factor: int, like: Tensor) -> Tensor:
    """Enlarge bilinearly by a factor, then resize to the exact size; the published code does both.

    The second step matters only where a size was odd. An exported graph always has it, because the sizes are not known
    yet; where they agree already, it changes nothing.
    """
    x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    if torch.compiler.is_exporting() or x.shape[2:] != like.shape[2:]:
        x = F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
    return x


class PyramidNeck(nn.Module):
    """Neck: the four branches become four maps of rising width, and each map is added to the next lower one.

    Args:
        dims: channels of the branches.
        widths: channels that the branches are brought to.
        out_dim: channels of the last map.
    """

    def __init__(self, dims: Sequence[int], widths: Sequence[int], out_dim: int, **factory: Any) -> None:
        super().__init__()
        self.increase_layers = nn.ModuleList(
            nn.Sequential(Bottleneck(dim, width, **factory)) for dim, width in zip(dims, widths)
        )
        self.downsample_layers = nn.ModuleList(
            ConvNormReLU(above, below, 3, stride=2, **factory) for above, below in itertools.pairwise(widths)
        )
        self.final_layer: nn.Module = ConvNormReLU(widths[-1], out_dim, 1, **factory)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The branches' (B, C, H, W) maps to the pyramid's, the highest resolution first."""
        pyramid = [self.increase_layers[0](maps[0])]
        for downsample, increase, x in zip(self.downsample_layers, self.increase_layers[1:], maps[1:]):
            pyramid.append(downsample(pyramid[-1]) + increase(x))
        pyramid[-1] = self.final_layer(pyramid[-1])
        return pyramid

    def prune(self, levels: int) -> None:
        """Keep the first outputs only."""
        if levels < len(self.increase_layers):
            self.final_layer = nn.Identity()
        self.increase_layers = self.increase_layers[:levels]
        self.downsample_layers = self.downsample_layers[: levels - 1]
