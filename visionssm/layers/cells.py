"""Maps cut into square cells and windows, whose numbers are rounded up.

While a model is exported, sizes are unknown: the code must not branch on whether a map divides into whole cells. Nor
may a tensor have an axis of as many entries as there are windows, which exporters fix where the example has one window
only: windows are then read and put back by tables of pixel numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.kernels.routes import n_cells
from visionssm.layers.leaf import leaf_function


@leaf_function
def into_cells(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) to (B, ⌈H/size⌉, size, ⌈W/size⌉, size, C); the cells at the ends are filled up with zeros."""
    _, height, width, _ = x.shape
    if torch.compiler.is_exporting():
        x = F.pad(x, (0, 0, 0, size - 1, 0, size - 1))
        x = _first(x, n_cells(height, size) * size, n_cells(width, size) * size)
    elif (
        height % size or width % size
    ):  # skipped if there is nothing to pad, since padding by zero still copies the map
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size))


@leaf_function
def out_of_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """(B, rows, size, columns, size, C) to the first (B, H, W, C) of it, the inverse of `into_cells`."""
    x = cells.flatten(3, 4).flatten(1, 2)
    return _first(x, height, width) if torch.compiler.is_exporting() else x[:, :height, :width]


@leaf_function
def into_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) to (B·windows, size², C): pixels row by row in every window, and so the windows of a map.

    Windows at the ends are filled up with zeros. A map that is one window is not copied.
    """
    _, height, width, channels = x.shape
    if torch.compiler.is_exporting():
        rows, columns = n_cells(height, size), n_cells(width, size)
        step = torch.arange(rows * columns * size * size, dtype=torch.int64, device=x.device)
        number, step = step // (size * size), step % (size * size)
        of_windows = number // columns  # ONNX has no remainder of a size that is left open
        row = of_windows * size + step // size
        column = (number - of_windows * columns) * size + step % size
        outside = height * width  # where a pixel of zeros is put
        index = torch.where((row < height) & (column < width), row * width + column, outside)
        pixels = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
        return pixels.index_select(1, index).flatten().view(-1, size * size, channels)
    cells = into_cells(x, size).transpose(2, 3)  # (B, rows, columns, size, size, C)
    return cells.flatten(3, 4).flatten(0, 2)


@leaf_function
def out_of_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of `into_windows`, for a map of `height` × `width` pixels: (B, H, W, C)."""
    rows, columns = n_cells(height, size), n_cells(width, size)
    if torch.compiler.is_exporting():
        pixel = torch.arange(height * width, dtype=torch.int64, device=windows.device)
        row = pixel // width
        column = pixel - row * width
        number = row // size * columns + column // size
        index = (number * size + row % size) * size + column % size
        tokens = windows.flatten().view(-1, rows * columns * size * size, windows.shape[2])
        return tokens.index_select(1, index).unflatten(1, (height, width))
    cells = windows.unflatten(1, (size, size)).unflatten(0, (-1, rows, columns))
    return out_of_cells(cells.transpose(2, 3), height, width)


def _first(x: Tensor, rows: int, columns: int) -> Tensor:
    """A copy: exporters would ask whether a view is contiguous, which cannot be answered while sizes are open."""
    for axis, side in ((1, rows), (2, columns)):
        x = x.index_select(axis, torch.arange(side, dtype=torch.int64, device=x.device))
    return x
