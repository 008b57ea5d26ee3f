"""Figures of the networks for image restoration: the published layout computes the same, and the command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.benchmarks import restoration
from visionssm.benchmarks.networks import scanning_with
from visionssm.cli.benchmark import main
from visionssm.heads.restoration import create_restorer
from visionssm.layers.ss2d import RouteScan


def test_published_layout_computes_the_same() -> None:
    torch.manual_seed(0)
    model = create_restorer("mambair_nano_x2", depths=(1,)).eval()
    image = torch.rand(1, 3, 5, 7)
    with torch.inference_mode():
        expected = model(image)
        with scanning_with("published"):
            torch.testing.assert_close(model(image), expected, atol=1e-5, rtol=1e-4)
        with scanning_with("identity"):
            assert not torch.allclose(model(image), expected, atol=1e-6, rtol=0)


def test_dry_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["restoration", "--dry-run", "--seconds", "0", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 4
    assert all(row["a / b"] > 0 and row["goal"] for row in rows)


def test_parts_are_measured_alone_once_each_and_other_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    counted = restoration.infer

    def infer(model: Any, image: Any, scan: str = "ours") -> None:
        calls.append(scan)
        counted(model, image, scan)

    monkeypatch.setattr(restoration, "infer", infer)
    path = tmp_path / "figures.json"
    arguments = ["restoration", "--dry-run", "--seconds", "0", "--json", str(path), "--only"]
    assert main([*arguments, "light"]) == 0
    (light,) = json.loads(path.read_text())["rows"]
    assert "published" not in calls
    assert main([*arguments, "frame"]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == light
    assert [(row["a"], row["b"]) for row in rows[1:]] == [("ours", "identity scans"), ("published layout", "ours")]
    assert calls.count("published") == 1
    told = capsys.readouterr().err
    scans = sum(isinstance(x, RouteScan) for x in create_restorer("mambair_nano_x2").modules())
    assert f"{scans} of {scans} scans of the published layout" in told
