"""The Triton pairwise weights without a GPU: numerics in Triton's interpreter, machine code for every target."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.children import errors_of_cases
from tests.kernels.interpreted_plstm2d import CASES
from visionssm.kernels.aot import TARGETS
from visionssm.kernels.plstm2d import gpu

TOLERANCE = 1e-6  # rounding in float32
TURNS = {"propagation": (True, True), "diffusion": (True, False)}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """Errors of every case, from one process in which Triton interprets kernels."""
    return errors_of_cases("tests.kernels.interpreted_plstm2d")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_float64_definition(case: str, interpreted: dict[str, dict[str, float]]) -> None:
    wrong = {name: error for name, error in interpreted[case].items() if not error <= TOLERANCE}
    assert not wrong


def _compiles_without_spills(side: int, turns: str, target: str) -> None:
    for name, launch in gpu.launches(rows=side, columns=side, batch=192, turns=TURNS[turns]).items():
        report = launch.compile_for(target)
        assert report.spill_bytes == 0, (name, report)
        assert report.registers > 0
        assert report.shared_bytes <= 48 * 1024, (name, report)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turns", TURNS)
def test_published_grid_compiles_without_spills(turns: str, target: str) -> None:
    _compiles_without_spills(14, turns, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("side", [6, 12, 24, 32, 64])
def test_other_grids_compile_without_spills(side: int, turns: str, target: str) -> None:
    _compiles_without_spills(side, turns, target)


@pytest.mark.parametrize("choose", [gpu.forward_tile, gpu.backward_tile])
def test_a_tile_holds_a_whole_row_and_up_to_eight_numbers_a_thread(choose: Callable[[int], gpu.Tile]) -> None:
    for columns in range(1, 65):
        tile = choose(columns)
        assert tile.columns >= columns
        assert tile.columns & (tile.columns - 1) == tile.sources & (tile.sources - 1) == 0
        assert tile.columns * tile.sources <= 8 * 32 * tile.num_warps
