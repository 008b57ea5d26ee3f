"""The benchmark of whole models: which are chosen, what a row holds, how the figure is written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from visionssm.benchmarks import models
from visionssm.benchmarks.flops import multiply_adds_of
from visionssm.benchmarks.timing import table, write_json

ROOT = Path(__file__).parents[2]
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


def test_fast_command_writes_a_row_for_every_chosen_model_and_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "peak_memory", lambda *_, **__: pytest.fail("the memory was measured"))
    monkeypatch.setattr(
        models, "medians_in_turn", lambda runs, **_: {name: run().numel() for name, run in runs.items()}
    )
    out = [f"--{kind}={tmp_path / f'models.{kind}'}" for kind in ("json", "png")]
    chosen = ["vmamba_nano_test", "vim_nano_test", "hrvmamba_nano_test"]
    command = ["models", "--fast", "--size=64", "--peers", "--reference", PEER, "--models", *chosen, *out]
    spec = importlib.util.spec_from_file_location("tools_benchmark", ROOT / "tools/benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main([*command, f"--threads={torch.get_num_threads()}"]) == 0
    rows = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {*chosen, PEER}
    printed = capsys.readouterr().out
    assert all(name in printed for name in chosen)
    assert (tmp_path / "models.png").stat().st_size > 10_000


@pytest.mark.slow
def test_every_registered_variant_can_be_counted_and_made_for_the_usual_size() -> None:
    for name in models.select(["*"]):
        multiply_adds, parameters = multiply_adds_of(name, 224)
        assert multiply_adds > 1e6, name
        assert parameters > 1e4, name


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
