"""The Triton deformable sum without a GPU: numerics in Triton's interpreter, code compiled for every target."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton is only published for Linux")

from tests.children import errors_of_cases
from tests.kernels.interpreted_deformable_sum import CASES
from visionssm.kernels.aot import TARGETS, KernelLaunch
from visionssm.kernels.deformable_sum import gpu

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
NANO = {"height": 56, "width": 56, "groups": 1, "channels": 16}
BASE = {"height": 56, "width": 56, "groups": 5, "channels": 32}
WIDE = {"height": 33, "width": 47, "groups": 3, "channels": 200, "batch": 2}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """Errors of every case, from one process in which Triton interprets kernels."""
    return errors_of_cases("tests.kernels.interpreted_deformable_sum")


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_float64_definition(case: str, interpreted: dict[str, float]) -> None:
    assert interpreted[case] <= TOLERANCE[CASES[case].dtype]


def test_position_that_is_not_finite_gives_nan_at_its_pixel_alone(interpreted: dict[str, float]) -> None:
    assert interpreted["not_finite"] == 1


def _compile(sizes: dict[str, int], dtype: torch.dtype, target: str) -> None:
    for name, launch in gpu.launches(**sizes, dtype=dtype).items():
        report = launch.compile_for(target)
        assert report.spill_bytes == 0, (name, report)
        assert report.registers > 0
        assert report.shared_bytes <= 48 * 1024, (name, report)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_training_step_compiles_without_spills(target: str, dtype: torch.dtype) -> None:
    _compile(NANO, dtype, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda x: str(x).removeprefix("torch."))
@pytest.mark.parametrize("sizes", [NANO, BASE, WIDE], ids=["nano", "base", "wide"])
def test_training_steps_of_many_shapes_compile_without_spills(
    sizes: dict[str, int], dtype: torch.dtype, target: str
) -> None:
    _compile(sizes, dtype, target)


def test_a_program_is_launched_for_every_block_of_pixels_and_group() -> None:
    for launch in gpu.launches(height=8, width=9, groups=3, channels=16, batch=2).values():
        assert launch.constants["BLOCK"] == 32
        assert launch.grid == (5 * 3,)  # of 144 pixels


def test_pixels_are_counted_in_32_bits_where_they_can_be() -> None:
    """GPUs divide 64-bit numbers by long routines."""

    def divisions(launch: KernelLaunch) -> set[str]:
        return set(re.findall(r"\b(?:div|rem)\.[su](?:32|64)\b", launch.compile_for("sm90").assembly))

    usual = gpu.launches(height=8, width=8, groups=1, channels=16)["forward"]
    assert divisions(usual) & {"div.s32", "rem.s32"}
    assert not any(name.endswith("64") for name in divisions(usual))
    huge = gpu.launches(height=1 << 16, width=1 << 15, groups=1, channels=16)["forward"]
    assert any(name.endswith("64") for name in divisions(huge))
