"""Figures of the networks for image restoration: the published layout computes the same, and the command runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from visionssm.benchmarks.networks import scanning_with
from visionssm.cli.benchmark import main
from visionssm.heads.restoration import create_restorer


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
