"""From voxels to a map seen from above, and 2-D networks on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.pointcloud.voxels import Sites


def seen_from_above(x: Tensor, sites: Sites) -> Tensor:
    """(N, C) features of voxels as a dense map (B, C·Z, Y, X), 0 where there is no voxel; channel c·Z + z.

    Args:
        x: features.
        sites: where they are.
    """
    depth, height, width = sites.shape
    batch, z, row, column = sites.coords.unbind(1)
    flat = x.new_zeros(sites.batch_size * depth * height * width, x.shape[1])
    flat = flat.index_copy(0, ((batch * depth + z) * height + row) * width + column, x)
    maps = flat.view(sites.batch_size, depth, height, width, -1).permute(0, 4, 1, 2, 3)
    return maps.reshape(sites.batch_size, -1, height, width)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class BevNet(nn.Module):
    """Levels of falling resolution, each brought to one resolution, and put side by side.

    Args:
        in_channels: of the map.
        layers: of every level, beside its first.
        strides: of the first layer of every level.
        channels: of every level.
        up_strides: from every level to the output; 0.5 is a step down by 2.
        up_channels: of every level's part of the output.
    Raises:
        ValueError: the levels are not as many in all of these.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        layers: Sequence[int],
        strides: Sequence[int],
        channels: Sequence[int],
        up_strides: Sequence[float],
        up_channels: Sequence[int],
    ) -> None:
        super().__init__()
        counts = [len(x) for x in (layers, strides, channels, up_strides, up_channels)]
        if len(set(counts)) != 1 or not layers:
            raise ValueError(
                "layers, strides, channels, up_strides and up_channels must have an entry for every level, got "
                f"{', '.join(map(str, counts))}"
            )
        widths = [in_channels, *channels]
        self.blocks = nn.ModuleList(
            self.level(*level) for level in zip(widths[:-1], channels, strides, layers, strict=True)
        )
        self.deblocks = nn.ModuleList(
            _resized(a, b, stride) for a, b, stride in zip(channels, up_channels, up_strides, strict=True)
        )
        self.out_channels = sum(up_channels)

    @staticmethod
    def level(in_channels: int, channels: int, stride: int, layers: int) -> nn.Module:
        """One level, its first layer with a stride."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, out_channels, Y', X'); what an odd map is too large by after the steps back is
        cut off."""
        maps = []
        for level, resize in zip(self.blocks, self.deblocks, strict=True):
            x = level(x)
            maps.append(resize(x))
        height, width = (min(y.shape[axis] for y in maps) for axis in (2, 3))
        return torch.cat([y[:, :, :height, :width] for y in maps], 1)


def _resized(in_channels: int, channels: int, stride: float) -> nn.Sequential:
    """A step of the resolution up, or down by a fraction."""
    step = round(stride if stride >= 1 else 1 / stride)
    kind = nn.ConvTranspose2d if stride >= 1 else nn.Conv2d
    return nn.Sequential(kind(in_channels, channels, step, stride=step, bias=False), _norm(channels), nn.ReLU())


class PlainBevNet(BevNet):
    """`BevNet` of convolutions, as SECOND has it (Yan et al. 2018)."""

    @staticmethod
    def level(in_channels: int, channels: int, stride: int, layers: int) -> nn.Module:
        """3×3 convolutions with norm and ReLU; the first is padded by a layer of its own."""
        first = [nn.ZeroPad2d(1), nn.Conv2d(in_channels, channels, 3, stride=stride, bias=False)]
        parts: list[nn.Module] = [*first, _norm(channels), nn.ReLU()]
        for _ in range(layers):
            parts += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels), nn.ReLU()]
        return nn.Sequential(*parts)


class ResidualBevNet(BevNet):
    """`BevNet` of residual blocks."""

    @staticmethod
    def level(in_channels: int, channels: int, stride: int, layers: int) -> nn.Module:
        """Residual blocks, the first with a projection beside it."""
        first = ResidualBlock(in_channels, channels, stride, projected=True)
        return nn.Sequential(first, *(ResidualBlock(channels, channels) for _ in range(layers)))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the map itself (He et al. 2016).

    Args:
        in_channels, channels: of the map and of the result.
        stride: of the first convolution.
        projected: whether a 1×1 convolution with norm stands beside, which a stride or another width needs.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, projected: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = _norm(channels)
        self.downsample_layer = nn.Sequential()
        if projected:
            project = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample_layer = nn.Sequential(project, _norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, Y, X) to (B, channels, ⌈Y / stride⌉, ⌈X / stride⌉)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample_layer(x))


BEV_NETS: dict[str, type[BevNet]] = {"plain": PlainBevNet, "residual": ResidualBevNet}
"""Name in a configuration, and class."""
