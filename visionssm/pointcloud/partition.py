"""Groups of voxels of equal size: sorted by windows, cut where a group is full (LION, arXiv 2407.18232)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionssm.pointcloud.voxels import Sites

MOST_WINDOW, MOST_GROUP = 2**12, 2**20
"""Voxels of a window along an axis, and of a group."""

DIRECTIONS = ("x", "y")
"""Axes that voxels may be sorted along first."""


@dataclass(frozen=True)
class Order:
    """Voxels in one order, cut into groups.

    Attributes:
        order: (N,) numbers of the voxels, as sorted.
        source: (P,) number of the voxel in each place of the groups, of which P / size follow each other.
        place: (N,) the place in which a voxel's own result is.
    """

    order: Tensor
    source: Tensor
    place: Tensor


@dataclass(frozen=True)
class Groups:
    """The groups of a batch's voxels.

    Groups cross the borders of windows. A sample's last group is filled up with the voxels that come right before it;
    where it is the only one, with the sample's voxels over again. No group has voxels of two samples.

    Attributes:
        size: places of a group.
        gather: (P,) position, among the sorted voxels, of what is in each place (flat2win).
        scatter: (N,) place of every sorted voxel (win2flat).
        orders: by direction.
    """

    size: int
    gather: Tensor
    scatter: Tensor
    orders: dict[str, Order]


@dataclass(frozen=True)
class Partition:
    """How voxels are grouped.

    Args:
        window: voxels of a window along x, y, z.
        group_size: voxels of a group.
        shifted: whether windows are moved by half their size.
    Raises:
        ValueError: a size is not positive or very large.
    """

    window: Sequence[int]
    group_size: int
    shifted: bool = False

    def __post_init__(self) -> None:
        if len(self.window) != 3 or not all(1 <= size <= MOST_WINDOW for size in self.window):
            raise ValueError(
                f"window={tuple(self.window)} must be three numbers of voxels (x, y, z) from 1 to {MOST_WINDOW}"
            )
        if not 1 <= self.group_size <= MOST_GROUP:
            raise ValueError(f"group_size={self.group_size} must be 1 to {MOST_GROUP:,} voxels")

    def of(self, sites: Sites) -> Groups:
        """The groups of these voxels; those of the same windows are made once."""
        name = ("groups", tuple(self.window), self.group_size, self.shifted)
        return sites.once(name, lambda: self._groups(sites))

    def _groups(self, sites: Sites) -> Groups:
        gather, scatter = places(sites.counts, self.group_size, sites.coords.device)
        orders = {}
        for direction in DIRECTIONS:
            order = torch.argsort(self.keys(sites, direction), stable=True)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(order.shape[0], device=order.device)
            orders[direction] = Order(order, order[gather], scatter[rank])
        return Groups(self.group_size, gather, scatter, orders)

    def keys(self, sites: Sites, direction: str) -> Tensor:
        """(N,) numbers that voxels are sorted by: sample, window, place within the window.

        Args:
            sites: where the voxels are.
            direction: "x" to go through windows, and voxels of a window, by x, y, z; "y" for y, x, z.
        """
        depth, height, width = sites.shape
        batch, z, y, x = sites.coords.unbind(1)
        columns = {"x": (x, width), "y": (y, height), "z": (z, depth)}
        window: dict[str, Tensor] = {}
        within: dict[str, Tensor] = {}
        count: dict[str, int] = {}
        size = dict(zip("xyz", self.window, strict=True))
        for axis, (index, length) in columns.items():
            shifted = index + (size[axis] // 2 if self.shifted else 0)
            window[axis], within[axis] = shifted // size[axis], shifted % size[axis]
            count[axis] = -(-length // size[axis]) + 1
        first, second, third = "xyz" if direction == "x" else "yxz"
        key = batch * count[first] + window[first]
        key = (key * count[second] + window[second]) * count[third] + window[third]
        for axis in (first, second, third):
            key = key * size[axis] + within[axis]
        return key


def places(counts: Sequence[int], size: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Places of sorted voxels in groups, and voxels in these places: `Groups.gather` and `Groups.scatter`.

    Args:
        counts: voxels of every sample, which are sorted one sample after the other.
        size: places of a group.
        device: of the tables.

    Examples:
        >>> gather, scatter = places([5], size=4)  # the last group has one voxel of its own and three from before
        >>> gather.tolist(), scatter.tolist()
        ([0, 1, 2, 3, 4, 1, 2, 3], [0, 1, 2, 3, 4])
    """
    none = torch.empty(0, dtype=torch.long, device=device)
    gather, scatter = [none], [none]
    voxels = padded = 0
    for count in counts:
        length = -(-count // size) * size
        place = torch.arange(length, device=device)
        # In tensors, as the number of voxels is not known when a network is exported.
        own, whole = (torch.scalar_tensor(x, dtype=torch.long, device=device) for x in (count, length))
        filler = torch.where(whole > size, place - size, place % own.clamp(min=1))
        gather.append(voxels + torch.where(place < count, place, filler))
        scatter.append(padded + place[:count])
        voxels, padded = voxels + count, padded + length
    return torch.cat(gather), torch.cat(scatter)
