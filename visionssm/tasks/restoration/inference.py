"""Applying a network to images of any size, in tiles that overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Args:
        tile: longest side of a tile in pixels of the image; None for the whole image at once.
        overlap: pixels that neighbouring tiles share, at least. A quarter of them at either end is left out, and over
            the half between one tile fades into the next.

    Raises:
        ValueError: a number is out of range.
    """

    tile: int | None = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.tile is not None and (type(self.tile) is not int or self.tile < 8):
            raise ValueError(f"tile must be a whole number of pixels, at least 8, or None, got {self.tile!r}")
        if type(self.overlap) is not int or not 0 <= 2 * self.overlap <= (self.tile or math.inf):
            raise ValueError(f"overlap={self.overlap!r} must be a whole number, from 0 to half of tile={self.tile}")

    def starts(self, side: int) -> tuple[list[int], int]:
        """First pixels of the tiles along a side of the image, evenly spread, and their length."""
        if self.tile is None or side <= self.tile:
            return [0], side
        count = math.ceil((side - self.overlap) / (self.tile - self.overlap))
        return [round(n * (side - self.tile) / (count - 1)) for n in range(count)], self.tile


def restored(network: Callable[[Tensor], Tensor], image: Tensor, scale: int, how: Tiling) -> Tensor:
    """What a network makes of an image, tile by tile.

    Where a network's view is narrower than a quarter of the overlap, this is what it makes of the whole image.

    Args:
        network: (1, C, H, W) to (1, C, scale·H, scale·W).
        image: (C, H, W), where the network is.
        scale: of the network.
        how: see `Tiling`.
    Returns:
        (C, scale·H, scale·W) float32, on the CPU if there are several tiles.

    Examples:
        >>> import torch
        >>> restored(lambda x: x, torch.ones(3, 40, 50), 1, Tiling(16, 8)).unique()
        tensor([1.])
    """
    height, width = image.shape[1:]
    (tops, rows), (lefts, columns) = how.starts(height), how.starts(width)
    if len(tops) == len(lefts) == 1:
        return network(image[None])[0].float()
    down, across = _shares(tops, rows, scale), _shares(lefts, columns, scale)
    total = torch.zeros(image.shape[0], scale * height, scale * width)
    for (top, vertical), (left, horizontal) in itertools.product(
        zip(tops, down, strict=True), zip(lefts, across, strict=True)
    ):
        found = network(image[None, :, top : top + rows, left : left + columns])[0].float().cpu()
        place = total[:, scale * top : scale * (top + rows), scale * left : scale * (left + columns)]
        place += found * vertical[:, None] * horizontal
    return total


def _shares(starts: list[int], length: int, scale: int) -> list[Tensor]:
    """How much every pixel of every tile along a side counts; they add up to 1 at every pixel of the image."""
    size, ends = scale * length, [scale * (start + length) for start in starts]
    shares = []
    for number, start in enumerate(starts):
        pixels = torch.arange(size) + scale * start + 0.5
        share = torch.ones(size)
        if number > 0:
            share = share * _fade(pixels, scale * start, ends[number - 1])
        if number < len(starts) - 1:
            share = share * (1 - _fade(pixels, scale * starts[number + 1], ends[number]))
        shares.append(share)
    return shares


def _fade(pixels: Tensor, start: int, end: int) -> Tensor:
    """From 0 to 1 over the middle half of the pixels that two tiles share."""
    quarter = (end - start) / 4
    return ((pixels - start - quarter) / max(2 * quarter, 1e-6)).clamp(0, 1)
