"""Key points to heat maps and back (the rules of Xiao et al. 2018, arXiv 1804.06208, in NumPy).

A heat map has a quarter of the crop's sides. Its pixel (x, y) lies at the crop's pixel (4x, 4y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

MULTIPLE = 32
"""Of which the sides of a crop are multiples: the lowest of HRVMamba's resolutions."""

STRIDE = 4
"""Pixels of the crop per pixel of the heat maps."""

Array = npt.NDArray[np.floating]
Maps = TypeVar("Maps", npt.NDArray[np.floating], "Tensor")


def encode(
    points: npt.ArrayLike, visibility: npt.ArrayLike, crop_size: tuple[int, int], sigma: float = 2.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Heat maps that a network is to predict: of each point a Gaussian around the nearest pixel, where it is 1.

    The Gaussian is cut off 3·sigma from its centre, on either axis.

    Args:
        points: (K, 2), x and y in pixels of the crop.
        visibility: (K,), 0 for points that are not labelled; all others count alike.
        crop_size: height and width, multiples of 4.
        sigma: in pixels of the heat maps; 2 for crops of 256×192, 3 for 384×288.

    Returns:
        (K, H/4, W/4) maps and (K,) weights: 0 for a point that is not labelled or of whose Gaussian nothing is in the
        crop, and then the map is 0.

    Raises:
        ValueError: shapes disagree, or a size or sigma is out of range.

    Examples:
        >>> maps, weights = encode([[40.0, 81.0], [0.0, 0.0]], [2, 0], (256, 192))
        >>> maps.shape, float(maps[0, 20, 10]), weights.tolist()
        ((2, 64, 48), 1.0, [1.0, 0.0])
    """
    points, visibility = np.asarray(points, dtype=np.float64), np.asarray(visibility)
    if points.ndim != 2 or points.shape[1] != 2 or visibility.shape != points.shape[:1]:
        raise ValueError(
            f"points of shape {points.shape} and visibility of shape {visibility.shape} must be (K, 2) and (K,)"
        )
    height, width = crop_size
    if min(height, width) < STRIDE or height % STRIDE or width % STRIDE:
        raise ValueError(f"crop_size={tuple(crop_size)} must be two multiples of {STRIDE}, height and width")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma={sigma} must be positive")
    rows, columns = height // STRIDE, width // STRIDE
    labelled = visibility > 0
    if not np.isfinite(points[labelled]).all():
        raise ValueError("points that are labelled must be finite")
    maps = np.zeros((len(points), rows, columns), dtype=np.float32)
    weights = np.zeros(len(points), dtype=np.float32)
    radius = int(3 * sigma)
    bell = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    for number in np.flatnonzero(labelled):
        # far away is outside, also where it is more than an integer holds
        x, y = (int(value) for value in np.clip(points[number] / STRIDE + 0.5, -1e6, 1e6))
        left, right = max(x - radius, 0), min(x + radius + 1, columns)
        top, bottom = max(y - radius, 0), min(y + radius + 1, rows)
        if left >= right or top >= bottom:
            continue
        weights[number] = 1.0
        across = bell[left - x + radius : right - x + radius]
        maps[number, top:bottom, left:right] = bell[top - y + radius : bottom - y + radius, None] * across
    return maps, weights


def decode(maps: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The highest pixel of every heat map, moved by a quarter of a pixel towards the higher neighbour on each axis.

    Args:
        maps: (B, K, H/4, W/4).

    Returns:
        (B, K, 2) points, x and y in pixels of the crop, and (B, K) scores, the values of the highest pixels. A map
        without a positive value has its point outside, at (−4, −4).

    Raises:
        ValueError: `maps` has another shape, or its maxima are not finite.

    Examples:
        >>> points, scores = decode(encode([[41.0, 80.0]], [2], (256, 192))[0][None])
        >>> points.tolist(), scores.tolist()
        ([[[40.0, 80.0]]], [[1.0]])
    """
    maps = np.asarray(maps)
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise ValueError(f"maps has shape {maps.shape}; expected (B, K, H/4, W/4)")
    rows, columns = maps.shape[2:]
    flat = maps.reshape(-1, rows * columns)
    highest = flat.argmax(1)
    scores = flat[np.arange(len(flat)), highest].astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {scores.size} heat maps have no finite maximum")
    y, x = np.divmod(highest, columns)
    points = np.stack([x, y], 1).astype(np.float32)
    points[:, 0] += 0.25 * _towards_higher(flat, highest, x, columns, 1)
    points[:, 1] += 0.25 * _towards_higher(flat, highest, y, rows, columns)
    points[scores <= 0] = -1
    shape = maps.shape[:2]
    return STRIDE * points.reshape(*shape, 2), scores.reshape(shape)


def _towards_higher(flat: Array, at: npt.NDArray[np.intp], place: npt.NDArray[np.intp], side: int, step: int) -> Array:
    """−1, 0 or 1 per map: which neighbour on an axis is higher; 0 at the border, where there is only one."""
    inside = np.flatnonzero((place > 0) & (place < side - 1))
    signs = np.zeros(len(flat), dtype=np.float32)
    signs[inside] = np.sign(flat[inside, at[inside] + step] - flat[inside, at[inside] - step])
    return signs


def flip_order(pairs: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Which point takes each point's place in the mirror image: left and right ones swap.

    Args:
        pairs: numbers of the points that swap; all others stay.
        count: K.

    Raises:
        ValueError: a number is out of range, or in two pairs.

    Examples:
        >>> flip_order([(1, 2)], 4)
        [0, 2, 1, 3]
    """
    order = list(range(count))
    named = [number for pair in pairs for number in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(named)) < len(named):
        raise ValueError(f"flip pairs {list(pairs)} must be pairs of different points, each in one pair only")
    if any(not 0 <= number < count for number in named):
        raise ValueError(f"flip pairs {list(pairs)} name points that are not among 0 to {count - 1}")
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def flip_maps(maps: Maps, pairs: Sequence[tuple[int, int]], shift: bool = True) -> Maps:
    """Heat maps of the mirrored crop as those of the crop itself; their mean is the flip test.

    Args:
        maps: (..., K, H/4, W/4), of NumPy or PyTorch.
        pairs: points that swap, see `flip_order`.
        shift: move the maps by one pixel to the right, where column 0 stays: pixel x of a heat map lies at 4x of the
            crop and not in the middle of four pixels, hence the mirror image of the last pixel does not lie at 0.

    Examples:
        >>> flip_maps(np.array([[[1, 2, 3]], [[4, 5, 6]]]), [(0, 1)]).tolist()
        [[[6, 6, 5]], [[3, 3, 2]]]
    """
    order = flip_order(pairs, maps.shape[-3])
    last = maps.shape[-1] - 1
    columns = [min(last - column + shift, last) for column in range(last + 1)]
    return maps[..., order, :, :][..., columns]
