"""Route tables: every pixel once, the right order in small maps, caching and errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import routes

# Each route of these visits every pixel once.
WHOLE = {
    "raster": (routes.raster, 1),
    "column": (routes.column, 1),
    "bidirectional": (routes.bidirectional, 2),
    "ss2d": (routes.ss2d, 4),
    "zigzag": (routes.zigzag, 1),
    "diagonal": (routes.diagonal, 1),
    "hilbert": (routes.hilbert, 1),
    "column_zigzag": (routes.column_zigzag, 1),
    "spiral": (routes.spiral, 1),
    "zigzags": (routes.zigzags, 4),
    "diagonals": (routes.diagonals, 4),
    "spirals": (routes.spirals, 4),
    "rasters": (routes.rasters, 4),
    "mhsvm": (routes.mhsvm, 8),
}
sizes = st.integers(1, 19)


@pytest.mark.parametrize("name", WHOLE)
@given(height=sizes, width=sizes)
@settings(max_examples=25, deadline=None)
def test_every_route_visits_every_pixel_once(name: str, height: int, width: int) -> None:
    build, n_routes = WHOLE[name]
    order = build(height, width)
    assert order.dtype == torch.int32
    assert order.shape == (n_routes, 1, height * width)
    everything = torch.arange(height * width, dtype=torch.int32)
    assert torch.equal(order.sort(-1).values, everything.expand_as(order))


@pytest.mark.parametrize("name", routes.ROUTES)
@given(height=sizes, width=sizes, option=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_every_registered_route_visits_every_pixel_equally_often(
    name: str, height: int, width: int, option: int
) -> None:
    order = routes.ROUTES[name](height, width, *([option] if routes.takes_option(name) else []))
    assert order.dtype == torch.int32
    assert order.ndim == 3
    assert order.min() >= -1
    visits = order[order >= 0].bincount(minlength=height * width)
    assert visits.numel() == height * width
    assert visits.min() == visits.max() > 0


def test_two_routes_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="'raster' already"):

        @routes.route
        def raster(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
            return routes.column(height, width, device=device)


@pytest.mark.parametrize(
    "build", [routes.atrous, routes.window, routes.joined_windows], ids=["atrous", "window", "joined_windows"]
)
@given(height=sizes, width=sizes, option=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_sampled_routes_together_visit_every_pixel_once(
    build: Callable[..., Tensor], height: int, width: int, option: int
) -> None:
    order = build(height, width, option)
    assert order.dtype == torch.int32
    inside = order[order >= 0].sort().values
    assert torch.equal(inside, torch.arange(height * width, dtype=torch.int32))
    assert order.min() >= -1


@given(height=sizes, width=sizes, size=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_window_sequences_stay_in_their_window(height: int, width: int, size: int) -> None:
    order = routes.window(height, width, size)
    rows, columns = -(-height // size), -(-width // size)
    assert order.shape == (1, rows * columns, size * size)
    for number, steps in enumerate(order[0].tolist()):
        inside = [pixel for pixel in steps if pixel >= 0]
        assert inside == sorted(inside)
        assert {(p // width // size, p % width // size) for p in inside} == {divmod(number, columns)}


@given(height=sizes, width=sizes, step=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_atrous_routes_have_one_phase_each(height: int, width: int, step: int) -> None:
    order = routes.atrous(height, width, step)
    assert order.shape == (step * step, 1, -(-height // step) * -(-width // step))
    for number, steps in enumerate(order[:, 0].tolist()):
        phases = {(p // width % step, p % width % step) for p in steps if p >= 0}
        assert phases <= {(number % step, number // step)}


@given(height=sizes, width=sizes)
@settings(max_examples=25, deadline=None)
def test_zigzag_and_power_of_two_hilbert_move_to_a_neighbour(height: int, width: int) -> None:
    side = 1 << (height % 5)
    for order, columns in ((routes.zigzag(height, width), width), (routes.hilbert(side, side), side)):
        y, x = order.flatten() // columns, order.flatten() % columns
        assert (y.diff().abs() + x.diff().abs() == 1).all()


@given(height=sizes, width=sizes)
@settings(max_examples=25, deadline=None)
def test_diagonal_never_returns_to_an_earlier_diagonal(height: int, width: int) -> None:
    order = routes.diagonal(height, width).flatten()
    assert (((order // width) + (order % width)).diff() >= 0).all()


@pytest.mark.parametrize(
    ("order", "table"),
    [
        (routes.raster(2, 3), [[0, 1, 2, 3, 4, 5]]),
        (routes.column(2, 3), [[0, 3, 1, 4, 2, 5]]),
        (routes.bidirectional(1, 3), [[0, 1, 2], [2, 1, 0]]),
        (routes.ss2d(2, 2), [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]),
        (routes.atrous(2, 3, 2), [[0, 2], [3, 5], [1, -1], [4, -1]]),
        (routes.zigzag(3, 2), [[0, 1, 3, 2, 4, 5]]),
        (routes.diagonal(3, 3), [[0, 1, 3, 6, 4, 2, 5, 7, 8]]),
        (routes.hilbert(1, 4), [[0, 1, 2, 3]]),
        (routes.column_zigzag(2, 3), [[0, 3, 4, 1, 2, 5]]),
        (routes.spiral(3, 4), [[0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]]),
        (routes.spiral(1, 1), [[0]]),
        (routes.zigzags(2, 2), [[0, 1, 3, 2], [2, 3, 1, 0], [0, 2, 3, 1], [1, 3, 2, 0]]),
        (
            routes.diagonals(2, 3),
            [[0, 1, 3, 4, 2, 5], [5, 2, 4, 3, 1, 0], [2, 1, 5, 4, 0, 3], [3, 0, 4, 5, 1, 2]],
        ),
        (routes.spirals(2, 2), [[0, 1, 3, 2], [2, 3, 1, 0], [2, 3, 1, 0], [0, 1, 3, 2]]),
        (routes.rasters(1, 2), [[0, 1], [1, 0], [0, 1], [1, 0]]),
    ],
    ids=[
        "raster",
        "column",
        "bidirectional",
        "ss2d",
        "atrous",
        "zigzag",
        "diagonal",
        "hilbert_row",
        "column_zigzag",
        "spiral",
        "spiral_of_one_pixel",
        "zigzags",
        "diagonals",
        "spirals",
        "rasters",
    ],
)
def test_small_tables_are_as_written_out(order: Tensor, table: list[list[int]]) -> None:
    assert order[:, 0].tolist() == table


@pytest.mark.parametrize(
    "order, table",
    [
        (routes.reversed_raster(2, 3), [[[5, 4, 3, 2, 1, 0]]]),
        (routes.reversed_column(2, 3), [[[5, 2, 4, 1, 3, 0]]]),
        (routes.joined_low(1, 2), [[[1, 0, 0, 1, 1, 0]]]),
        (routes.joined_low(2, 2), [[[3, 2, 1, 0, 0, 2, 1, 3, 3, 1, 2, 0]]]),
    ],
)
def test_reversed_and_joined_tables_are_single_sequences(order: Tensor, table: list[list[list[int]]]) -> None:
    assert order.tolist() == table


def test_window_table_is_as_written_out() -> None:
    assert routes.window(2, 3, 2).tolist() == [[[0, 1, 3, 4], [2, -1, 5, -1]]]


def test_joined_windows_are_the_windows_one_after_another() -> None:
    assert routes.joined_windows(2, 3, 2).tolist() == [[[0, 1, 3, 4, 2, -1, 5, -1]]]


def test_interleaved_table_is_as_written_out() -> None:
    assert routes.interleaved(2, 3, 2).tolist() == [[[0, 3, 1, 4, 2, 5]]]
    assert routes.interleaved(1, 7, 3).tolist() == [[[0, 3, 6, 1, 4, -1, 2, 5, -1]]]


def test_backwards_walks_from_the_last_step() -> None:
    order = routes.window(2, 3, 2)
    assert routes.backwards(order).tolist() == [[[4, 3, 1, 0], [-1, 5, -1, 2]]]
    assert torch.equal(routes.backwards(routes.backwards(order)), order)


@pytest.mark.parametrize("height", range(1, 13))
def test_every_head_of_mhsvm_visits_every_pixel_once_on_maps_of_all_sizes(height: int) -> None:
    for width in range(1, 13):
        order = routes.mhsvm(height, width)
        assert order.shape == (8, 1, height * width)
        assert torch.equal(order.sort(-1).values, routes.raster(height, width).expand_as(order))


def by_walking_until_a_wall(height: int, width: int) -> list[int]:
    """The spiral, step by step: turn right before the border and before pixels that were visited."""
    row, column, (down, right) = 0, 0, (0, 1)
    visited = [0]
    while len(visited) < height * width:
        there = (row + down, column + right)
        inside = 0 <= there[0] < height and 0 <= there[1] < width
        if not inside or there[0] * width + there[1] in visited:
            down, right = right, -down
            continue
        row, column = there
        visited.append(row * width + column)
    return visited


@given(height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_spiral_walks_on_until_it_must_turn_right(height: int, width: int) -> None:
    assert routes.spiral(height, width).flatten().tolist() == by_walking_until_a_wall(height, width)


@given(height=sizes, width=sizes)
@settings(max_examples=25, deadline=None)
def test_column_zigzag_is_the_zigzag_of_the_transposed_map(height: int, width: int) -> None:
    steps = routes.zigzag(width, height)
    assert torch.equal(routes.column_zigzag(height, width), steps % height * width + steps // height)


@given(height=sizes, width=sizes, size=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_mirroring_twice_changes_nothing_and_both_mirrors_turn_the_map_around(
    height: int, width: int, size: int
) -> None:
    order = routes.window(height, width, size)
    rows, columns = routes.mirrored_rows(order, height, width), routes.mirrored_columns(order, width)
    assert torch.equal(routes.mirrored_rows(rows, height, width), order)
    assert torch.equal(routes.mirrored_columns(columns, width), order)
    both = routes.mirrored_columns(rows, width)
    assert torch.equal(both, routes.mirrored_rows(columns, height, width))
    assert torch.equal(both, torch.where(order < 0, order, height * width - 1 - order))
    assert torch.equal(routes.backwards(rows), routes.mirrored_rows(routes.backwards(order), height, width))


@pytest.mark.parametrize("name", WHOLE)
def test_tables_are_made_once_for_a_size(name: str) -> None:
    build, _ = WHOLE[name]
    assert build(5, 7) is build(5, 7)
    assert build(5, 7) is not build(7, 5)


def test_tables_made_in_inference_mode_can_be_used_in_training() -> None:
    with torch.inference_mode():
        order = routes.raster(4, 9)
    assert not order.is_inference()


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 2)])
@pytest.mark.parametrize("name", WHOLE)
def test_empty_maps_are_refused_with_their_size(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        WHOLE[name][0](*size)
