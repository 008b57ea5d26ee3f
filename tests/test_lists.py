"""A family and a route that are new are found by every list of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference_cases import recorded_case

ROOT = Path(__file__).parents[1]
TOY = '''
from timm.models import generate_default_cfgs

from visionssm.backbones import vmamba
from visionssm.backbones._base import imagenet_cfg, register_variants
from visionssm.kernels import routes


class Toy(vmamba.VMamba):
    """A family of one variant."""


default_cfgs = generate_default_cfgs({"toy_nano_test": imagenet_cfg()})
VARIANTS = {"toy_nano_test": vmamba.VARIANTS["vmamba_nano_test"]}
register_variants(__name__, Toy, VARIANTS, vmamba.checkpoint_filter_fn)


@routes.route
def toy_route(height, width, *, device=None):
    """The raster under another name."""
    return routes.raster(height, width, device=device)
'''
FOUND = {
    "tests/backbones/test_conformance.py": "toy_nano_test",
    "tests/backbones/test_reference_cases.py": "toy_nano_test_grad",
    "tests/heads/test_feature_maps.py": "toy_nano_test",
    "tests/kernels/test_routes.py": "toy_route",
    "tests/test_timm_suite.py": "toy_nano_test",
    "tests/test_visualization.py": "toy_nano_test",
    "tests/tools/test_visualize.py": "toy_nano_test",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Names of the tests where a toy family, its reference case and a toy route are there."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    case = recorded_case("vmamba", "vmamba_tiny_s1l8_grad").data | {"name": "toy_nano_test_grad"}
    (folder / "cases" / "toy").mkdir(parents=True)
    (folder / "cases" / "toy" / "toy_nano_test_grad.json").write_text(json.dumps(case))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "toy", "--collect-only", "-q", "--slow", *FOUND],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            "VISIONSSM_REFERENCE_CASES": str(folder / "cases"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize("file", FOUND)
def test_a_new_family_and_a_new_route_are_tested(output: str, file: str) -> None:
    names = [line for line in output.splitlines() if line.startswith(f"{file}::")]
    assert any(f"[{FOUND[file]}" in name for name in names), names


def test_a_new_route_is_drawn(output: str) -> None:
    assert "tests/test_visualization.py::test_every_route_can_be_drawn[toy_route]" in output


def test_only_the_cases_of_the_named_folder_are_taken(output: str) -> None:
    names = [line for line in output.splitlines() if "test_backbone_equals_authors" in line]
    assert names
    assert all("toy_nano_test_grad" in name for name in names)
