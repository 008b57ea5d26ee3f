"""The Triton linear recurrence without a GPU: numerics in Triton's interpreter, code compiled for every target."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.children import errors_of_cases
from tests.kernels.interpreted_linear_recurrence import CASES
from visionssm.benchmarks import machine_code
from visionssm.kernels.aot import TARGETS
from visionssm.kernels.linear_recurrence import gpu

TOLERANCE = 1e-5  # rounding of float32 in second derivatives over up to 40 steps


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """Errors of every case, from one process in which Triton interprets kernels."""
    return errors_of_cases("tests.kernels.interpreted_linear_recurrence")


@pytest.mark.parametrize("case", CASES)
def test_states_and_both_derivatives_equal_the_float64_definition(case: str, interpreted: dict[str, float]) -> None:
    assert interpreted[case] <= TOLERANCE


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=["float32", "complex64"])
def test_a_training_step_compiles_without_spills(target: str, dtype: torch.dtype) -> None:
    for varying in (False, True):
        shape = {"steps": 300, "inner": 16 * 16 * 128, "outer": 8, "dtype": dtype, "varying": varying}
        for name, launch in gpu.launches(**shape, initial_state=True).items():  # type: ignore[arg-type]
            report = launch.compile_for(target)
            assert report.spill_bytes == 0, (name, report)
            assert report.registers > 0
            assert report.shared_bytes <= 48 * 1024, (name, report)


def test_a_program_is_launched_for_every_block_of_columns() -> None:
    launch = gpu.launches(steps=3, inner=gpu.COLUMNS + 1, outer=5)["forward"]
    assert launch.grid == (10,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=["float32", "complex64"])
def test_a_scan_stays_in_the_registers_of_a_thread(dtype: torch.dtype) -> None:
    launch = gpu.launches(steps=256, inner=4096, outer=2, dtype=dtype, varying=True)["forward"]
    code = launch.compile_for("sm90").machine_code()
    walk = max(machine_code.loops(code), key=lambda loop: loop.count())
    elsewhere = (*machine_code.BARRIERS, *machine_code.SHUFFLES, *machine_code.SHARED)
    assert not [name for name in walk.names if name.startswith(elsewhere)]
    assert walk.count() * 32 / (gpu.STEPS * gpu.COLUMNS) <= (33 if dtype == torch.float32 else 43)
