"""Which voxels surround each voxel: the table that sub-manifold convolutions read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

_MOST_KEYS = 2**62


def neighbour_table(coordinates: Tensor, spatial_shape: Sequence[int], kernel_size: int = 3) -> Tensor:
    """Rows of the voxels around each voxel, for `sparse_conv`: a sub-manifold convolution's pairs.

    A sub-manifold convolution computes outputs only where there are inputs (Graham et al. 2018, arXiv 1711.10275), so
    inputs and outputs have the same rows. Taps are numbered row by row over the offsets, (z, y, x) from (−1, −1, −1) to
    (1, 1, 1) for a kernel of 3, as in the weight of `torch.nn.functional.conv3d`; the one in the middle is the voxel
    itself. The table is its own mirror image: where tap k of row i is j, tap −1 − k of row j is i.

    Voxels are found by binary search in their sorted keys; only the taps of one half are searched for, and those that
    follow each other along the last axis together.

    Args:
        coordinates: (N, 1 + d) integers (sample, z, y, x) or (sample, y, x), each row once, in any order.
        spatial_shape: size of the grid along each of the d axes.
        kernel_size: width of the kernel, an odd number.

    Returns:
        (N, kernel_sizeᵈ) int32, −1 where there is no voxel.

    Raises:
        ValueError: a shape or dtype is wrong, `kernel_size` is even, coordinates repeat or lie outside the grid.

    Examples:
        >>> import torch, visionssm
        >>> pixels = torch.tensor([[0, 1, 1], [0, 1, 2], [0, 3, 0]])  # (sample, y, x)
        >>> visionssm.neighbour_table(pixels, (4, 3))[:, 3:6]  # to the left, itself, to the right
        tensor([[-1,  0,  1],
                [ 0,  1, -1],
                [-1,  2, -1]], dtype=torch.int32)
    """
    _check_arguments(coordinates, spatial_shape, kernel_size)
    reach = kernel_size // 2
    coordinates = coordinates.long()
    widths = [size + 2 * reach for size in spatial_shape]  # with a margin, so that no offset leads to the next row
    steps = [prod(widths[axis + 1 :]) for axis in range(len(widths))]
    keys = coordinates[:, 0] * prod(widths)
    for axis, step in enumerate(steps):
        keys = keys + (coordinates[:, axis + 1] + reach) * step
    keys, order = keys.sort()
    _check_keys(keys)

    table = keys.new_empty(kernel_size ** len(steps), keys.shape[0])  # a row for each tap, in the order of the keys
    middle = table.shape[0] // 2
    offsets = product(range(-reach, reach + 1), repeat=len(steps) - 1)
    for line, offset in enumerate(offsets):
        first = line * kernel_size  # tap of the line's first offset along the last axis
        if first > middle:
            break
        start = keys + sum(o * step for o, step in zip(offset, steps, strict=False)) - reach
        place = torch.searchsorted(keys, start)
        for tap in range(first, min(first + kernel_size, middle)):
            place = _search(keys, start + (tap - first), place, table, tap)
    table[middle] = torch.arange(keys.shape[0], dtype=torch.int64, device=keys.device)
    rows = torch.cat([order, order.new_full((1,), -1)]).int()  # of each place among the keys; −1 stays −1
    place = torch.empty_like(order)
    place[order] = torch.arange(keys.shape[0], dtype=torch.int64, device=keys.device)
    return rows[table[:, place].t()]


def _search(keys: Tensor, wanted: Tensor, place: Tensor, table: Tensor, tap: int) -> Tensor:
    """Note the pairs of a tap and of the one opposite.

    `place` is that of the first key not below `wanted`; what is returned, that of the first above it.
    """
    last = keys.shape[0] - 1
    own = torch.arange(keys.shape[0], dtype=torch.int64, device=keys.device)
    hit = keys[place.clamp(max=last)] == wanted
    table[tap] = torch.where(hit, place, -1)
    mirrored = table.new_full((keys.shape[0] + 1,), -1)  # misses write to the last, which is left out
    mirrored[torch.where(hit, place, keys.shape[0])] = own
    table[-1 - tap] = mirrored[:-1]
    return place + hit  # keys differ, so the next key is the first not below the next one that is wanted


def _check_arguments(coordinates: Tensor, spatial_shape: Sequence[int], kernel_size: int) -> None:
    axes = len(spatial_shape)
    if axes < 1 or min(spatial_shape) < 1:
        raise ValueError(f"spatial_shape={tuple(spatial_shape)}; give a positive size for each axis")
    if coordinates.ndim != 2 or coordinates.shape[1] != 1 + axes:
        raise ValueError(
            f"coordinates has shape {tuple(coordinates.shape)}; expected (N, {1 + axes}): the sample, and a place on"
            f" each axis of spatial_shape={tuple(spatial_shape)}"
        )
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"coordinates has dtype {coordinates.dtype}; expected int32 or int64")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}; a sub-manifold kernel has a middle: give an odd number")
    if torch.compiler.is_compiling() or coordinates.is_meta or coordinates.numel() == 0:
        return
    low, high = coordinates.amin(0).tolist(), coordinates.amax(0).tolist()
    if min(low) < 0 or any(place >= size for place, size in zip(high[1:], spatial_shape, strict=True)):
        raise ValueError(
            f"coordinates reach from {low[1:]} to {high[1:]} in samples {low[0]} to {high[0]}, but the grid is"
            f" {tuple(spatial_shape)}; leave out what lies outside"
        )
    if (high[0] + 1) * prod(size + kernel_size for size in spatial_shape) > _MOST_KEYS:
        raise ValueError(f"{high[0] + 1} grids of {tuple(spatial_shape)} have more cells than 64-bit numbers can count")


def _check_keys(keys: Tensor) -> None:
    """Voxels are numbered by sorted keys; two of the same key would each hide the other from their neighbours."""
    if torch.compiler.is_compiling() or keys.is_meta:
        return
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise ValueError(f"coordinates names {repeated} voxels that another row names too; merge their features first")
