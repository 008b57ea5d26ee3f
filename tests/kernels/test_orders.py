"""Where PyTorch is told to be deterministic, results do not depend on which program of a Triton kernel comes first."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is only published for Linux")

import torch

from tests.children import errors_of_cases
from tests.kernels.interpreted_orders import PROBLEMS
from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.deformable_sum import gpu as deformable
from visionssm.kernels.plstm2d import gpu as pairs
from visionssm.kernels.selective_scan import gpu as scan
from visionssm.kernels.ssd import gpu as duality

ADDED_ATOMICALLY = ("selective_scan", "ssd", "plstm2d_four_directions")  # by several programs


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, float]]:
    """How far results of two orders are apart, from a process in which Triton interprets kernels."""
    found: dict[str, dict[str, float]] = errors_of_cases("tests.kernels.interpreted_orders")
    return found


@pytest.mark.parametrize("name", PROBLEMS)
def test_deterministic_results_have_the_same_bits_in_any_order_of_programs(
    name: str, report: dict[str, dict[str, float]]
) -> None:
    assert report[name]["deterministic"] == 0
    assert report[name]["error"] <= 2e-6  # to the definition in float32


@pytest.mark.parametrize("name", ADDED_ATOMICALLY)
def test_usual_results_depend_on_the_order_of_programs(name: str, report: dict[str, dict[str, float]]) -> None:
    """Else the test above would pass whatever the operators do."""
    assert 0 < report[name]["usual"] <= 2e-6


def _launches() -> dict[str, KernelLaunch]:
    found = scan.launches(pixels=49, channels=96, d_state=1, routes=4, rank=6, dtype=torch.bfloat16)
    found["vectors"] = duality.launches(steps=64, heads=2, width=16, d_state=16)["backward_vectors"]
    found["pairs"] = pairs.launches(rows=8, columns=8)["backward"]
    found["deformable"] = deformable.launches(height=8, width=8, groups=1, channels=16)["backward"]
    return found


@pytest.mark.parametrize(
    "target", ["sm90", *(pytest.param(t, marks=pytest.mark.slow) for t in ("sm80", "sm100", "gfx942"))]
)
def test_deterministic_kernels_compile(target: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        found = _launches()
    finally:
        torch.use_deterministic_algorithms(False)
    assert found["forward"].constants["APART"]
    assert found["vectors"].constants["SUMMED_HEADS"] == 1
    assert found["pairs"].constants["APART"]
    for name, launch in found.items():
        assert launch.compile_for(target).registers > 0, name
