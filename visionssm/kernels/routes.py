"""Scan routes as data: int32 tables (routes K, sequences S, steps T) of row-major pixel numbers, −1 = outside.

Each function takes the map's height and width, returns one table, and is cached by its arguments. Tables are made
with tensor operations only, so that they can also be traced with symbolic sizes. Combine tables with `torch.cat`
(more routes), `side_by_side` (more routes, of other lengths), `backwards` (the same routes from their ends),
`mirrored_rows` and `mirrored_columns`; `visits` reads a table the other way round.

Examples:
    >>> from visionssm import routes
    >>> routes.zigzag(2, 3)
    tensor([[[0, 1, 2, 5, 4, 3]]], dtype=torch.int32)
    >>> both = torch.cat([routes.zigzag(2, 3), routes.backwards(routes.zigzag(2, 3))])  # (2, 1, 6): two routes
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

_Table = TypeVar("_Table", bound=Callable[..., Any])
_CACHED_TABLES = 256


ROUTES: dict[str, Callable[..., Tensor]] = {}


def by_size(build: _Table) -> _Table:
    """Cache what a function makes of a map's size, by size and device, and check the size.

    Compilers trace the construction instead.

    Args:
        build: function of height, width, any options, and the keyword `device`; of tensors that nobody changes.
    """
    cached = functools.lru_cache(_CACHED_TABLES)(build)

    @functools.wraps(build)
    def table(height: int, width: int, *options: Any, device: torch.device | str | None = None) -> Any:
        if torch.compiler.is_compiling():
            return build(height, width, *options, device=device)
        if height < 1 or width < 1:
            raise ValueError(f"a map of {height}x{width} pixels has no route; height and width must be positive")
        if device is None:
            device = torch.get_default_device()  # which is another one at another call
        with torch.inference_mode(False):  # a table made during inference is also used in training
            return cached(height, width, *options, device=device)

    return table  # type: ignore[return-value]


def route(build: _Table) -> _Table:
    """Register a table under its function's name in `ROUTES`, where pictures and tests find it, and cache it.

    Args:
        build: function of height, width, at most one integer option, and the keyword `device`.

    Raises:
        ValueError: another route has the name.
    """
    name = build.__name__
    if name in ROUTES:
        raise ValueError(f"there is a route {name!r} already; choose another name")
    ROUTES[name] = by_size(build)
    return ROUTES[name]  # type: ignore[return-value]


def takes_option(name: str) -> bool:
    """Whether a route of `ROUTES` has a number beside the map's size, as `window` has its windows' side."""
    return len(inspect.signature(ROUTES[name]).parameters) > 3  # height, width, device


def n_cells(side: int, size: int) -> int:
    """⌈side / size⌉. Not written −(−side // size), because ONNX rounds quotients of negative numbers towards zero."""
    return (side + size - 1) // size


def _pixels(height: int, width: int, device: torch.device | str | None) -> Tensor:
    return torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)


def _one_route(steps: Tensor) -> Tensor:
    return steps.reshape(1, 1, -1).to(torch.int32)


def _padded_pixels(height: int, width: int, rows: int, columns: int, device: torch.device | str | None) -> Tensor:
    """(rows, columns) pixel numbers of a map, −1 beyond its borders. Python never branches on the sizes."""
    row = torch.arange(rows, dtype=torch.int32, device=device)[:, None]
    column = torch.arange(columns, dtype=torch.int32, device=device)
    return torch.where((row < height) & (column < width), row * width + column, -1)


def _rows_and_columns(height: int, width: int, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    rows = torch.arange(height, dtype=torch.int64, device=device)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.int64, device=device).expand(height, width)
    return rows, columns


def _sorted_by(key: Tensor) -> Tensor:
    """The route that visits pixels in the order of an (H, W) integer key."""
    return _one_route(key.flatten().argsort(stable=True))


def _walked_at(step: Tensor) -> Tensor:
    """The route that visits each pixel at the step which an (H, W) map names. Unlike sorting, ONNX has it."""
    step = step.flatten()
    pixels = torch.arange(step.shape[0], dtype=torch.int64, device=step.device)
    return _one_route(torch.zeros_like(step).scatter(0, step, pixels))


def backwards(order: Tensor) -> Tensor:
    """The same routes walked from their last step to their first."""
    return order.flip(-1)


def side_by_side(orders: Sequence[Tensor]) -> Tensor:
    """Routes (K, S, T) of unequal T as one table: the shorter ones go on with steps −1, which change no output."""
    longest = functools.reduce(_larger, [order.shape[-1] for order in orders])
    if not isinstance(longest, torch.SymInt) and all(order.shape[-1] == longest for order in orders):
        return torch.cat(list(orders))
    step = torch.arange(longest, dtype=torch.int64, device=orders[0].device)
    longer = []
    for order in orders:  # an exporter may not ask how many steps are missing, so each is read from the table
        ended = torch.cat([order, torch.full_like(order[..., :1], -1)], dim=-1)
        longer.append(ended.index_select(-1, torch.where(step < order.shape[-1], step, order.shape[-1])))
    return torch.cat(longer)


def _larger(first: int, second: int) -> int:
    if isinstance(first, torch.SymInt) or isinstance(second, torch.SymInt):  # of an exporter, which is asked nothing
        larger: int = torch.sym_max(first, second)
        return larger
    return max(first, second)


def visits(order: Tensor, pixels: int) -> Tensor:
    """The step at which each pixel is visited, (K, S, T) to (K, S, L), for sequences that visit every pixel once."""
    steps = torch.arange(order.shape[-1], dtype=torch.int64, device=order.device).expand(order.shape)
    places = torch.where(order < 0, pixels, order).long()
    return torch.zeros_like(places[..., :1]).expand(-1, -1, pixels + 1).scatter(-1, places, steps)[..., :pixels]


def mirrored_columns(order: Tensor, width: int) -> Tensor:
    """The same routes with left and right exchanged."""
    column = order - order // width * width  # ONNX has no remainder of a size that is left open
    return torch.where(order < 0, order, order - column + (width - 1 - column))


def mirrored_rows(order: Tensor, height: int, width: int) -> Tensor:
    """The same routes with top and bottom exchanged."""
    row = order // width
    return torch.where(order < 0, order, order + (height - 1 - 2 * row) * width)


@route
def raster(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Row by row, left to right: (1, 1, L)."""
    return _one_route(_pixels(height, width, device))


@route
def reversed_raster(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Row by row, from the last pixel to the first: (1, 1, L)."""
    return backwards(_one_route(_pixels(height, width, device)))


@route
def column(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Column by column, downwards: (1, 1, L)."""
    return _one_route(_pixels(height, width, device).T)


@route
def reversed_column(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Column from its last pixel: (1, 1, L)."""
    return backwards(column(height, width, device=device))


@route
def joined_low(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Reversed raster, column and reversed column end to end, as one sequence: (1, 1, 3L).

    The route of MSVMamba's reduced maps (arXiv 2405.14174): every pixel is visited three times, and the state flows
    from each order into the next.
    """
    orders = [make(height, width, device=device) for make in (reversed_raster, column, reversed_column)]
    return torch.cat(orders, dim=-1)


@route
def bidirectional(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Raster and its reverse: (2, 1, L)."""
    forward = _one_route(_pixels(height, width, device))
    return torch.cat([forward, backwards(forward)])


@route
def ss2d(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """VMamba's four: raster, column, reversed raster, reversed column: (4, 1, L). (arXiv 2401.10166, section 4.2)"""
    pixels = _pixels(height, width, device)
    forward = torch.cat([_one_route(pixels), _one_route(pixels.T)])
    return torch.cat([forward, backwards(forward)])


@route
def atrous(height: int, width: int, step: int, *, device: torch.device | str | None = None) -> Tensor:
    """Skip sampling: step² routes, each over the pixels of one (row, column) phase: (step², 1, ⌈H/step⌉·⌈W/step⌉).

    Routes are numbered row phase first; even row phases go row by row and odd ones column by column
    (EfficientVMamba, arXiv 2403.09977, section 3.2). Where a phase has fewer pixels, steps are −1.
    """
    rows, columns = n_cells(height, step), n_cells(width, step)
    phases = _padded_pixels(height, width, rows * step, columns * step, device).view(rows, step, columns, step)
    routes = []
    for column_phase in range(step):
        for row_phase in range(step):
            phase = phases[:, row_phase, :, column_phase]
            routes.append(_one_route(phase.T if row_phase % 2 else phase))
    return torch.cat(routes)


@route
def window(height: int, width: int, size: int, *, device: torch.device | str | None = None) -> Tensor:
    """Raster inside each size×size window, one sequence per window: (1, windows, size²); −1 beyond the border."""
    rows, columns = n_cells(height, size), n_cells(width, size)
    padded = _padded_pixels(height, width, rows * size, columns * size, device)
    return padded.view(rows, size, columns, size).transpose(1, 2).reshape(1, rows * columns, size * size)


@route
def joined_windows(height: int, width: int, size: int, *, device: torch.device | str | None = None) -> Tensor:
    """The windows of `window` one after another, as one sequence: (1, 1, windows·size²); −1 beyond the border.

    (LocalMamba, arXiv 2403.09338, section 3.2)
    """
    # Worked out step by step: where `window` has one window, exporters would fix their number.
    columns, cell = n_cells(width, size), size * size
    step = torch.arange(n_cells(height, size) * columns * cell, dtype=torch.int64, device=device)
    number, inside = step // cell, step % cell
    row = number // columns * size + inside // size
    column = (number - number // columns * columns) * size + inside % size
    return _one_route(torch.where((row < height) & (column < width), row * width + column, -1))


@route
def interleaved(height: int, width: int, pieces: int, *, device: torch.device | str | None = None) -> Tensor:
    """The first pixel of every piece, the second of every piece, …: (1, 1, pieces·⌈L/pieces⌉), −1 where one is missing.

    The pieces are as many equal parts of the pixels, row by row; the last ones are shorter where L is no multiple.
    (SegMamba's scan across slices, arXiv 2401.13560, section 2.2, is this one of a volume cut into its slices.)
    """
    length = n_cells(height * width, pieces)
    return _one_route(_padded_pixels(1, height * width, 1, pieces * length, device).view(pieces, length).T)


@route
def zigzag(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Boustrophedon: even rows left to right, odd rows right to left: (1, 1, L)."""
    rows, columns = _rows_and_columns(height, width, device)
    return _walked_at(rows * width + torch.where(rows % 2 == 0, columns, width - 1 - columns))


@route
def column_zigzag(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Boustrophedon by columns: even columns downwards, odd columns upwards: (1, 1, L)."""
    rows, columns = _rows_and_columns(height, width, device)
    return _walked_at(columns * height + torch.where(columns % 2 == 0, rows, height - 1 - rows))


@route
def diagonal(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Anti-diagonals in turn, even ones upwards and odd ones downwards: (1, 1, L)."""
    rows, columns = _rows_and_columns(height, width, device)
    number = rows + columns

    def triangle(side: Tensor) -> Tensor:
        side = side.clamp(min=0)
        return side * (side + 1) // 2

    earlier = triangle(number) - triangle(number - height) - triangle(number - width)  # pixels of earlier diagonals
    upwards = columns - (number - height + 1).clamp(min=0)
    downwards = rows - (number - width + 1).clamp(min=0)
    return _walked_at(earlier + torch.where(number % 2 == 0, upwards, downwards))


@route
def spiral(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Clockwise inwards from the top left corner, ring by ring: (1, 1, L)."""
    rows, columns = _rows_and_columns(height, width, device)
    ring = torch.minimum(torch.minimum(rows, columns), torch.minimum(height - 1 - rows, width - 1 - columns))
    row, column = rows - ring, columns - ring
    right, bottom = width - 2 * ring - 1, height - 2 * ring - 1  # last column and row of the ring
    step = torch.where(
        row == 0,
        column,
        torch.where(
            column == right,
            right + row,
            torch.where(row == bottom, 2 * right + bottom - column, 2 * (right + bottom) - row),
        ),
    )
    return _walked_at(2 * ring * (height + width - 2 * ring) + step)


def _both_ways(first: Tensor, second: Tensor) -> Tensor:
    """Two routes, each followed by its reverse."""
    return torch.cat([first, backwards(first), second, backwards(second)])


@route
def zigzags(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Zigzag by rows and its reverse, zigzag by columns and its reverse: (4, 1, L). (MHS-VM, arXiv 2406.05992)"""
    return _both_ways(zigzag(height, width, device=device), column_zigzag(height, width, device=device))


@route
def diagonals(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """`diagonal` and its reverse, the same with left and right exchanged: (4, 1, L). (MHS-VM, arXiv 2406.05992)"""
    steps = diagonal(height, width, device=device)
    return _both_ways(steps, mirrored_columns(steps, width))


@route
def spirals(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """`spiral` and its reverse, the same with top and bottom exchanged: (4, 1, L). (MHS-VM, arXiv 2406.05992)"""
    steps = spiral(height, width, device=device)
    return _both_ways(steps, mirrored_rows(steps, height, width))


@route
def rasters(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Raster and its reverse, column and its reverse: (4, 1, L). `ss2d` has the same four in another order."""
    return _both_ways(raster(height, width, device=device), column(height, width, device=device))


@route
def mhsvm(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """The eight routes of MHS-VM without their reverses, two for each head: (8, 1, L). (arXiv 2406.05992)"""
    heads = (zigzags, diagonals, spirals, rasters)
    return torch.cat([table(height, width, device=device)[::2] for table in heads])


@route
def hilbert(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Hilbert curve of the smallest enclosing square of side 2^n, pixels outside the map left out: (1, 1, L)."""
    y, x = _rows_and_columns(height, width, device)
    side = 1 << max(height - 1, width - 1).bit_length()
    distance = torch.zeros_like(x)
    s = side // 2
    while s:  # from the coarsest quadrant inwards, turning the frame as the curve does (Hilbert 1891)
        right, lower = (x & s) > 0, (y & s) > 0
        distance = distance + s * s * (3 * right.long() ^ lower.long())
        x_in, y_in = x & (s - 1), y & (s - 1)
        turned = ~lower & right
        x_in, y_in = torch.where(turned, s - 1 - x_in, x_in), torch.where(turned, s - 1 - y_in, y_in)
        x, y = torch.where(lower, x_in, y_in), torch.where(lower, y_in, x_in)
        s //= 2
    return _sorted_by(distance)
