"""The Triton form of `ssd` without a GPU: numerics in Triton's interpreter, machine code compiled for every target."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.children import errors_of_cases
from tests.kernels.interpreted_ssd import CASES
from visionssm.kernels.aot import TARGETS, KernelLaunch
from visionssm.kernels.ssd import gpu

# Rounding of results and gradients in the case's dtype.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 8e-4}
OF_SUMS = 1e-5  # gradients of a, in float32: sums over all steps of terms of both signs


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """Errors of every case, from one process in which Triton interprets kernels."""
    return errors_of_cases("tests.kernels.interpreted_ssd")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_float64_definition(case: str, interpreted: dict[str, dict[str, float]]) -> None:
    tolerance = TOLERANCES[CASES[case].dtype]
    tolerances = {"a": max(tolerance, OF_SUMS)}
    found = interpreted[case]
    wrong = {name: error for name, error in found.items() if not error <= tolerances.get(name, tolerance)}
    assert not wrong


def launches(d_state: int, dtype: torch.dtype) -> dict[str, KernelLaunch]:
    return gpu.launches(steps=3136, heads=6, width=64, d_state=d_state, batch=2, dtype=dtype, initial_state=True)


@pytest.mark.parametrize("target", ["sm80", "gfx942"])  # where registers are fewest; the others are slow cases
def test_a_training_step_compiles_without_spills(target: str) -> None:
    for name, launch in launches(64, torch.float32).items():
        report = launch.compile_for(target)
        assert report.spill_bytes == 0, (name, report)
        assert report.registers > 0
        assert report.shared_bytes <= 48 * 1024, (name, report)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("d_state", [16, 64, 128])
def test_every_shape_compiles_without_spills(d_state: int, dtype: torch.dtype, target: str) -> None:
    for name, launch in launches(d_state, dtype).items():
        report = launch.compile_for(target)
        assert report.spill_bytes == 0, (name, report)


@pytest.mark.parametrize("chunk_size, saved, in_half_precision", [(16, 4, 4), (32, 2, 2), (64, 2, 1), (128, 2, 1)])
def test_saved_states_are_one_a_chunk_that_the_registers_hold(
    chunk_size: int, saved: int, in_half_precision: int
) -> None:
    x, b = torch.empty(2, 64, 3, 5), torch.empty(2, 64, 1, 7)
    assert gpu.states_shape(x, b, chunk_size) == (2, saved, 3, 7, 5)
    assert gpu.states_shape(x.half(), b.half(), chunk_size)[1] == in_half_precision
    assert gpu.states_shape(x[:, :0], b, chunk_size)[1] == 0
