"""Figures of VideoMamba: without scans no token knows of another, and the command runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import visionssm
from visionssm.benchmarks.networks import scanning_with
from visionssm.cli.benchmark import main


def test_without_scans_a_token_knows_of_its_neighbours_alone() -> None:
    torch.manual_seed(0)
    model = visionssm.create_video_classifier("videomamba_nano", depth=1, num_frames=2).eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    other = clip.clone()
    other[:, :, 0, 8:] = 0  # from the fifth token on; convolutions at the first, the class token, reach to the fourth
    with torch.inference_mode():
        assert not torch.allclose(model(clip), model(other), atol=1e-6, rtol=0)
        with scanning_with("identity"):
            torch.testing.assert_close(model(clip), model(other))


def test_dry_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["video", "--dry-run", "--seconds", "0", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["figure"].split(",")[0] for row in rows] == ["videomamba_img_nano_test", "videomamba_nano"]
    assert all(row["a / b"] > 0 and row["goal"] == "≤ 1.5" for row in rows)
