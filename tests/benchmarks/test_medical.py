"""Figures of the networks for medical segmentation: what is compared computes the same, and the command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.benchmarks.medical import TINY, Scale, dynunet, noise, windows
from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.timing import merged
from visionssm.cli.benchmark import main
from visionssm.heads.medical import create_segmenter
from visionssm.tasks.medical.inference import Inference, probabilities


def test_planned_network_has_five_stages_on_the_patch() -> None:
    planned = Scale().plan
    assert planned.patch == (40, 112, 96)
    assert planned.widths == (32, 64, 128, 256, 320)
    assert planned.reduction == (8, 16, 16)


@torch.inference_mode()
def test_network_beside_it_has_the_widths_and_resolutions_of_the_plan() -> None:
    peer: Any = dynunet(TINY.plan, 1, 3).eval()
    stages = (peer.input_block, *peer.downsamples, peer.bottleneck)
    assert tuple(stage.conv1.conv.out_channels for stage in stages) == TINY.plan.widths
    assert peer(noise(1, 1, *TINY.plan.patch)).shape == (1, 3, *TINY.plan.patch)


@pytest.mark.parametrize(
    ("name", "layout", "sides"),
    [
        ("vmunet_nano", "published", (32, 64)),
        ("swinumamba_nano", "published", (64, 96)),
        ("segmamba_nano", "sequential", (16, 16, 32)),
    ],
)
@torch.inference_mode()
def test_published_layout_gives_the_numbers_of_the_network(name: str, layout: str, sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = create_segmenter(name, in_chans=1).eval()
    for name, weight in model.named_parameters():
        if name.endswith("out_proj.weight"):
            weight.mul_(30)  # or what an untrained network scans is lost beside the rest of it
    x = noise(1, 1, *sides)
    expected = model(x)
    for scan in (layout, "identity"):
        with scanning_with(scan):
            difference = float((model(x) - expected).abs().max() / expected.abs().max())
        assert (difference < 1e-4) == (scan == layout), difference


@pytest.mark.parametrize("sides", [(8, 8, 8), (9, 13, 20), (12, 16, 8)])
def test_as_many_patches_as_windows_are_laid_over_the_volume(sides: tuple[int, int, int]) -> None:
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.cat([x, x], 1)

    how = Inference(patch=(8, 8, 8), batch=1)
    probabilities(network, torch.zeros(1, *sides), 3, how)
    assert sum(seen) == windows(sides, (8, 8, 8), how.overlap)


def test_rows_that_are_measured_again_replace_those_of_the_file() -> None:
    known = [{"figure": "f", "a": a, "b": "b", "a / b": 1.0} for a in ("x", "y")]
    again = [{**known[1], "a / b": 2.0}, {**known[1], "a": "z"}]
    assert merged(known, again) == [known[0], *again]


@pytest.mark.slow
def test_dry_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    command = ["medical", "--dry-run", "--seconds", "0", "--json", str(path)]
    assert main(command) == 0
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 16
    assert all(row["a / b"] > 0 and row["goal"] for row in rows)
