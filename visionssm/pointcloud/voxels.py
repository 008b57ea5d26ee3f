"""Voxels: the cells of space in which a sweep has points, and the network that makes a feature of the points in each.

Coordinates of voxels are rows (batch, z, y, x) and shapes of grids are (Z, Y, X); points, ranges, sizes of voxels,
windows and scales are x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels import neighbour_table

ValueT = TypeVar("ValueT")

MOST_COLUMNS, MOST_HEIGHT = 2**22, 2**10
"""Cells of a grid seen from above, which maps have as many places as, and one above the other."""


@dataclass(frozen=True)
class Grid:
    """A box of space that is cut into voxels.

    Args:
        point_range: x, y, z of the lowest corner and of the highest, in metres.
        voxel_size: x, y, z in metres.
    Raises:
        ValueError: the range is empty, or a voxel has no size, or there would be more than `MOST_COLUMNS`.

    Examples:
        >>> Grid((0, -40, -3, 70.4, 40, 1), (0.2, 0.2, 0.125)).shape
        (32, 400, 352)
    """

    point_range: Sequence[float]
    voxel_size: Sequence[float]

    def __post_init__(self) -> None:
        low, high, size = self.low, self.high, self.voxel_size
        if len(self.point_range) != 6 or not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f"point_range={tuple(self.point_range)} must be x, y, z of a lower and of a higher corner, in metres"
            )
        if len(size) != 3 or not all(math.isfinite(x) and x > 0 for x in size):
            raise ValueError(f"voxel_size={tuple(size)} must be three positive lengths in metres")
        depth, height, width = self.shape
        if not (1 <= depth <= MOST_HEIGHT and 1 <= height * width <= MOST_COLUMNS):
            raise ValueError(
                f"a point_range of {tuple(self.point_range)} in voxels of {tuple(size)} m makes a grid of {self.shape} "
                f"(z, y, x), which has no cell, or more than {MOST_COLUMNS:,} seen from above; choose other voxels"
            )

    @property
    def low(self) -> Sequence[float]:
        """x, y, z of the lowest corner."""
        return self.point_range[:3]

    @property
    def high(self) -> Sequence[float]:
        """x, y, z of the highest corner."""
        return self.point_range[3:]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        x, y, z = (round((b - a) / s) for a, b, s in zip(self.low, self.high, self.voxel_size, strict=True))
        return z, y, x


class Sites:
    """Where a batch has voxels. Tables that depend on nothing else are made once and kept.

    Args:
        coords: (N, 4) int64 batch, z, y, x; no two rows are equal.
        shape: (Z, Y, X) of the grid.
        batch_size: samples, of which some may have no voxel.
    """

    def __init__(self, coords: Tensor, shape: Sequence[int], batch_size: int) -> None:
        depth, height, width = shape
        self.coords = coords
        self.shape = (depth, height, width)
        self.batch_size = batch_size
        self._kept: dict[Hashable, object] = {}

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def count(self) -> int:
        """How many there are; a symbol while the network is exported, which `len` cannot give."""
        return self.coords.shape[0]

    def once(self, name: Hashable, make: Callable[[], ValueT]) -> ValueT:
        """What `make` gives: made at the first call of this name, kept for later ones."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]  # type: ignore[return-value]

    @property
    def counts(self) -> list[int]:
        """Voxels of every sample."""
        if self.batch_size == 1:
            return [self.count]
        return self.once("counts", lambda: torch.bincount(self.coords[:, 0], minlength=self.batch_size).tolist())

    @property
    def neighbours(self) -> Tensor:
        """(N, 27) numbers of the voxels around each, −1 where there is none: what `sparse_conv` takes."""
        return self.once("neighbours", lambda: neighbour_table(self.coords, self.shape))


def distinct(coords: Tensor, shape: Sequence[int], batch_size: int) -> tuple[Sites, Tensor]:
    """The different ones of (M, 4) coordinates, and of each row the number of the site that it is.

    Sites are sorted by batch, x, y and z, in this order.
    """
    depth, height, width = shape
    b, z, y, x = coords.unbind(1)
    keys, inverse = torch.unique(((b * width + x) * height + y) * depth + z, return_inverse=True)
    columns = [keys // (depth * height * width), keys % depth, keys // depth % height]
    columns.append(keys // (depth * height) % width)
    return Sites(torch.stack(columns, 1), shape, batch_size), inverse


class RowNorm(nn.BatchNorm1d):
    """Batch norm of the rows of an (N, C) tensor, which takes its running statistics where N is less than two."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to the same shape."""
        if self.training and len(x) > 1:
            return super().forward(x)
        # Written out, as PyTorch's form wants to know whether there are any rows, which no exporter does.
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return torch.addcmul(self.bias - self.running_mean * scale, x, scale).to(x.dtype)


class PointLayer(nn.Module):
    """Linear, norm, ReLU of every point, and the maximum of a voxel's points.

    Args:
        in_features, out_features: numbers per point.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm = RowNorm(out_features, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor, voxel: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(M, in_features) of points to (M, out_features) of points and (count, out_features) of voxels.

        Args:
            x: numbers of the points.
            voxel: (M,) number of the voxel that each is in.
            count: voxels, none of which is empty.
        """
        x = F.relu(self.norm(self.linear(x)))
        highest = x.new_zeros(count, x.shape[1]).scatter_reduce(0, voxel[:, None].expand_as(x), x, "amax")
        return x, highest


class VoxelEncoder(nn.Module):
    """A feature of every voxel from all points in it, however many (dynamic voxelization, arXiv 1910.06528).

    A point is described by its own numbers, its distance from the mean of its voxel's points, and that from the
    voxel's centre.

    Args:
        grid: points outside of it are left out, and so are those with a number that is not finite.
        point_features: F, numbers of a point, of which the first three are x, y, z.
        channels: of the layers, the last one's are the features of a voxel.
    Raises:
        ValueError: there are less than three numbers of a point, or no layers.
    """

    low: Tensor
    size: Tensor

    def __init__(self, grid: Grid, point_features: int = 4, channels: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if point_features < 3 or not channels or min(channels) < 1:
            raise ValueError(
                f"point_features={point_features} must be at least 3 (x, y, z) and channels={tuple(channels)} must "
                "name at least one layer"
            )
        self.grid = grid
        self.point_features = point_features
        self.register_buffer("low", torch.tensor(list(grid.low), dtype=torch.float32), persistent=False)
        self.register_buffer("size", torch.tensor(list(grid.voxel_size), dtype=torch.float32), persistent=False)
        widths = [point_features + 6, *channels]
        # All layers but the last have half their channels of the point and half of the voxel.
        halves = [width // 2 for width in channels[:-1]] + [channels[-1]]
        self.pfn_layers = nn.ModuleList(PointLayer(a, b) for a, b in zip(widths[:-1], halves, strict=True))

    def forward(self, clouds: Sequence[Tensor]) -> tuple[Tensor, Sites]:
        """Clouds (M_i, F) of a batch to (N, channels[-1]) features and where they are.

        Raises:
            ValueError: a cloud has another number of features.
        """
        points, coords = self._inside(clouds)
        sites, voxel = distinct(coords, self.grid.shape, len(clouds))
        x = torch.cat([points, *self._offsets(points, coords, voxel, sites.count)], 1)
        *first, last = self.pfn_layers
        for layer in first:
            x, highest = layer(x, voxel, sites.count)
            x = torch.cat([x, highest[voxel]], 1)
        return last(x, voxel, sites.count)[1], sites

    def _inside(self, clouds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(M, F) usable points and (M, 4) coordinates of the voxels that they are in."""
        for cloud in clouds:
            if cloud.dim() != 2 or cloud.shape[1] != self.point_features:
                raise ValueError(
                    f"a cloud must be (points, {self.point_features}), got {tuple(cloud.shape)}; point_features of the "
                    "model's config is the number of columns"
                )
        sample = torch.cat([torch.full((x.shape[0],), i, device=x.device) for i, x in enumerate(clouds)])
        points = torch.cat(list(clouds))
        cell = torch.floor((points[:, :3] - self.low) / self.size)
        ends = cell.new_tensor(self.grid.shape).flip(0)
        inside = ((cell >= 0) & (cell < ends)).all(1) & points.isfinite().all(1)
        coords = torch.cat([sample[inside, None], cell[inside].long().flip(1)], 1)
        return points[inside], coords

    def _offsets(self, points: Tensor, coords: Tensor, voxel: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of every point the (M, 3) distances from the mean of its voxel's points, and from the voxel's centre."""
        xyz = points[:, :3]
        total = xyz.new_zeros(count, 3).index_add_(0, voxel, xyz)
        number = xyz.new_zeros(count).index_add_(0, voxel, torch.ones_like(xyz[:, 0])).clamp(min=1)
        centre = coords[:, 1:].flip(1).to(xyz.dtype) * self.size + (self.size / 2 + self.low)
        return xyz - (total / number[:, None])[voxel], xyz - centre
