"""Images of any size in tiles that overlap, and the tiles together again; without PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Args:
        tile: longest side of a tile in pixels of the image; None or 0 for the whole image at once.
        overlap: pixels that neighbouring tiles share, at least. A quarter of them at either end is left out, and over
            the half between one tile fades into the next.

    Raises:
        ValueError: a number is out of range.
    """

    tile: int | None = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        if self.tile is not None and (type(self.tile) is not int or (self.tile != 0 and self.tile < 8)):
            raise ValueError(f"tile must be a whole number of pixels, at least 8, or 0 for none, got {self.tile!r}")
        if type(self.overlap) is not int or not 0 <= 2 * self.overlap <= (self.tile or math.inf):
            raise ValueError(f"overlap={self.overlap!r} must be a whole number, from 0 to half of tile={self.tile}")

    def starts(self, side: int) -> tuple[list[int], int]:
        """First pixels of the tiles along a side of the image, evenly spread, and their length."""
        if not self.tile or side <= self.tile:
            return [0], side
        count = math.ceil((side - self.overlap) / (self.tile - self.overlap))
        return [round(n * (side - self.tile) / (count - 1)) for n in range(count)], self.tile


def tiled(
    network: Callable[[int, int, int, int], np.ndarray], shape: tuple[int, int, int], scale: int, how: Tiling
) -> np.ndarray:
    """What a network makes of the tiles of an image, where one fades into the next.

    Args:
        network: top, left, rows and columns of a tile to the (C, scale·rows, scale·columns) that it becomes.
        shape: (C, H, W) of the image.
        scale: of the network.
        how: see `Tiling`.
    Returns:
        (C, scale·H, scale·W) float32.
    """
    channels, height, width = shape
    (tops, rows), (lefts, columns) = how.starts(height), how.starts(width)
    down, across = _shares(tops, rows, scale), _shares(lefts, columns, scale)
    total = np.zeros((channels, scale * height, scale * width), np.float32)
    for (top, vertical), (left, horizontal) in itertools.product(
        zip(tops, down, strict=True), zip(lefts, across, strict=True)
    ):
        place = total[:, scale * top : scale * (top + rows), scale * left : scale * (left + columns)]
        place += network(top, left, rows, columns) * vertical[:, None] * horizontal
    return total


def _shares(starts: list[int], length: int, scale: int) -> list[np.ndarray]:
    """How much every pixel of every tile along a side counts; they add up to 1 at every pixel of the image.

    A tile counts by as much as has faded into it and has not faded on into the next one. No more can fade on than has
    faded in, also where three tiles lie over each other, as they may with an overlap of more than a third.
    """
    ends = [scale * (start + length) for start in starts]
    pixels = np.arange(ends[-1], dtype=np.float32) + np.float32(0.5)
    shares, into = [], np.ones_like(pixels)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        last = number == len(starts) - 1
        on = np.zeros_like(into) if last else np.minimum(into, _fade(pixels, scale * starts[number + 1], end))
        shares.append((into - on)[scale * start : end])
        into = on
    return shares


def _fade(pixels: np.ndarray, start: int, end: int) -> np.ndarray:
    """From 0 to 1 over the middle half of the pixels that two tiles share."""
    quarter = (end - start) / 4
    faded: np.ndarray = ((pixels - np.float32(start + quarter)) / np.float32(max(2 * quarter, 1e-6))).clip(0, 1)
    return faded
