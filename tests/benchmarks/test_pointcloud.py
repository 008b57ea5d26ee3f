"""Figures of point clouds: what is compared computes the same, and the command runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from visionssm.benchmarks.pointcloud import TINY, quadratic_mlstm, voxels_of
from visionssm.pointcloud.operators.xlstm import mlstm

ROOT = Path(__file__).parents[2]


def test_xlstm_in_chunks_equals_its_definition() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 70, 2, 8)
    i, f = torch.randn(2, 70, 2), torch.randn(2, 70, 2) + 2
    torch.testing.assert_close(mlstm(q, k, v, i, f), quadratic_mlstm(q, k, v, i, f), rtol=1e-4, atol=1e-5)


def test_voxels_are_as_many_as_asked_for_and_different() -> None:
    sites = voxels_of(TINY, 300)
    assert len(sites) == len(torch.unique(sites.coords, dim=0)) == 300
    assert (sites.coords[:, 1:] < torch.tensor(TINY.shape)).all()


@pytest.mark.slow
def test_dry_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert (
        runpy.run_path(str(ROOT / "tools/benchmark.py"))["main"](
            ["pointcloud", "--dry-run", "--seconds", "0", "--json", str(path)]
        )
        == 0
    )
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 13
    assert all(row["b / a"] > 0 and row["goal"] for row in rows)
    parts = json.loads(path.with_suffix(".parts.json").read_text())["rows"]
    assert [row["part"] for row in parts][-3:] == ["BEV net", "head", "boxes and NMS"]
