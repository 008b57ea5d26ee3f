"""The benchmark of whole models: which are chosen, what a row holds, how the figure is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from visionssm.benchmarks import models
from visionssm.benchmarks.timing import table, write_json

PEER = "test_convnext"  # timm's own model for tests: tiny, any size


def test_patterns_choose_each_variant_once() -> None:
    chosen = models.select(["vmamba_nano_test", "vmamba_n*", "vim_nano*"])
    assert chosen == ["vmamba_nano_test", "vim_nano_test"]


def test_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="matches 'vmamba_gigantic'"):
        models.select(["vmamba_gigantic"])


def test_peers_are_those_of_about_the_same_operations() -> None:
    counts = {"half": 50, "near": 90, "same": 100, "above": 120, "double": 200}
    assert models.peers_for({"ours": 100}, counts) == ["near", "same", "above"]


def test_rows_hold_the_model_and_what_it_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "peak_memory", lambda name, **_: 2e6 if name == PEER else None)
    rows = models.run(["vmamba_nano_test"], peers=[], reference=PEER, size=64, seconds=0.05)
    by_name = {row["model"]: row for row in rows}
    assert set(by_name) == {"vmamba_nano_test", PEER}
    assert by_name[PEER]["latency / reference"] == 1
    ours = by_name["vmamba_nano_test"]
    assert ours["images/s"] == pytest.approx(1e3 / ours["latency ms"])
    assert ours["latency / reference"] > 0
    assert (by_name[PEER]["peak memory MB"], ours["peak memory MB"]) == (2, None)
    assert "vmamba_nano_test" in table(rows)
    write_json(tmp_path / "rows.json", rows)
    assert json.loads((tmp_path / "rows.json").read_text())["machine"]["threads"] == torch.get_num_threads()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can start its high-water mark anew")
def test_peak_memory_holds_the_maps_of_all_images() -> None:
    memory = models.peak_memory("vmamba_nano_test", batch=64, size=64, threads=1)
    assert memory is not None
    one_map = 64 * 16 * 16 * 24 * 4  # the first stage's, in bytes; several live at a time
    assert one_map < memory < 100 * one_map


def test_figure_shows_every_model(tmp_path: Path) -> None:
    rows = [
        {"model": f"model_{i}", "kind": kind, "GFLOPs": 1.0 + i, "latency / reference": 0.5 + i, "batch": 1, "size": 64}
        for i, kind in enumerate(["ours", "timm", "ours"])
    ]
    models.scatter(rows, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
