"""Figures of Mamba-YOLO: what is compared computes the same, and the command runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.yolo import assign_by_loops, assignment_case, found_in, object_maps
from visionssm.heads.yolo import create_yolo
from visionssm.heads.yolo.assign import assign

ROOT = Path(__file__).parents[2]


def test_assignment_in_loops_is_that_of_tensors() -> None:
    case = assignment_case(12, 128)
    loops, ours = assign_by_loops(*case), assign(*case)
    assert int((ours.box >= 0).sum()) > 30
    assert torch.equal(loops.box, ours.box)
    torch.testing.assert_close(loops.weight, ours.weight, rtol=1e-4, atol=1e-6)


def test_maps_of_objects_hold_as_many_candidates() -> None:
    found = found_in(object_maps(256, 40))
    assert 10 < len(found) <= 40


@torch.inference_mode()
def test_published_layout_gives_the_numbers_of_the_detector() -> None:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", 3).eval()
    image = torch.rand(1, 3, 64, 64)
    ours = model(image)
    for scan in ("published", "identity"):
        with scanning_with(scan):
            others = model(image)
        differences = [float((x - y).abs().max()) for x, y in zip(ours, others, strict=True)]
        assert (max(differences) < 1e-4) == (scan == "published")


@pytest.mark.slow
def test_dry_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = ["yolo", "--dry-run", "--seconds", "0", "--json", str(path)]
    assert runpy.run_path(str(ROOT / "tools/benchmark.py"))["main"](command) == 0
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 8
    assert all(row["a / b"] > 0 and row["goal"] for row in rows)
