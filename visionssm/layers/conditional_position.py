"""Stem, block and downsampling of the families whose positions come from convolutions: VSSD and Spatial-Mamba."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.layers.conv import MapConv2d, PreciseConv2d
from visionssm.layers.linear import Mlp
from visionssm.layers.memory_format import channels_last, image_map


def _conv_layer(*, conv: nn.Conv2d, norm: nn.Module | None = None, act: nn.Module | None = None) -> nn.Sequential:
    """A convolution, then the norm and the activation if they are given, under the published names."""
    named = {"conv": conv, "norm": norm, "act": act}
    return nn.Sequential(OrderedDict((name, module) for name, module in named.items() if module is not None))


class ResidualConvStem(nn.Module):
    """Five convolutions with batch norms that bring an image to a quarter of its resolution; sizes round up.

    The first halves the resolution. The next two are a residual branch: their output is added to their input, with no
    activation between the branch's last norm and the sum, and none after the sum. The last two halve the resolution
    again and end with a norm, without an activation.
    """

    def __init__(self, in_chans: int, dim: int, **factory: Any) -> None:
        super().__init__()
        half, wide = dim // 2, 4 * dim

        def layer(fan_in: int, out: int, kernel_size: int, stride: int = 1, *, act: bool) -> nn.Sequential:
            conv = PreciseConv2d(fan_in, out, kernel_size, stride, padding=kernel_size // 2, bias=False, **factory)
            return _conv_layer(
                conv=conv, norm=nn.BatchNorm2d(out, **factory), act=nn.ReLU(inplace=True) if act else None
            )

        self.conv1 = layer(in_chans, half, 3, stride=2, act=True)
        self.conv2 = nn.Sequential(layer(half, half, 3, act=True), layer(half, half, 3, act=False))
        self.conv3 = nn.Sequential(layer(half, wide, 3, stride=2, act=True), layer(wide, dim, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
        x = self.conv1(image_map(x))
        return channels_last(self.conv3(x + self.conv2(x))).permute(0, 2, 3, 1)


class InvertedBottleneckDownsample(nn.Module):
    """Widen, halve the resolution depth-wise, narrow to `out_dim`; one batch norm, at the end. Odd sizes round up."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        super().__init__()
        wide = 4 * out_dim
        widen = nn.Conv2d(dim, wide, kernel_size=1, **factory)
        halve = nn.Conv2d(wide, wide, kernel_size=3, stride=2, padding=1, groups=wide, **factory)
        narrow = nn.Conv2d(wide, out_dim, kernel_size=1, **factory)
        self.conv = nn.Sequential(
            _conv_layer(conv=widen, act=nn.ReLU(inplace=True)),
            _conv_layer(conv=halve, act=nn.ReLU(inplace=True)),
            _conv_layer(conv=narrow, norm=nn.BatchNorm2d(out_dim, **factory)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConditionalPositionBlock(nn.Module):
    """Mixer and MLP, each after a depth-wise convolution that tells pixels where they are (CPVT, arXiv 2102.10882).

    x + cpe1(x), x + mixer(LN(x)), x + cpe2(x), x + MLP(LN(x)); stochastic depth drops the mixer and the MLP only.

    Args:
        dim: C.
        mixer: (B, H, W, C) to the same shape.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: probability with which a sample skips the mixer, and the MLP.
    """

    def __init__(self, dim: int, mixer: nn.Module, *, mlp_ratio: float, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.cpe1 = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory)
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.mixer = mixer
        self.cpe2 = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))
