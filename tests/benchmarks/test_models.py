"""The benchmark of whole models: which are chosen, what a row holds, how the figure is written."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from visionssm.benchmarks import estimators, models, published, segmenters, yolo_sizes
from visionssm.benchmarks.flops import multiply_adds_of
from visionssm.benchmarks.timing import CLOCKS, median, medians_in_turn, read_rows, table, write_json

ROOT = Path(__file__).parents[2]
PEER = "test_convnext"  # timm's own model for tests: tiny, any size


def test_patterns_choose_each_variant_once() -> None:
    chosen = models.select(["vmamba_nano_test", "vmamba_n*_test", "vim_nano_test"])
    assert chosen == ["vmamba_nano_test", "vim_nano_test"]


def test_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="matches 'vmamba_gigantic'"):
        models.select(["vmamba_gigantic"])


def test_peers_are_those_of_about_the_same_operations() -> None:
    counts = {"half": 50, "near": 90, "same": 100, "above": 120, "double": 200}
    assert models.peers_for({"ours": 100}, counts) == ["near", "same", "above"]


def test_variants_for_tests_are_chosen_only_by_name() -> None:
    assert "vmamba_nano_test" not in models.select(["vmamba*"])
    assert set(models.select(["*"])) == {name for name in models.variants() if not name.endswith("_test")}
    assert "mambaout_femto" in models.variants()


def test_rows_hold_the_model_and_what_it_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "peak_memory", lambda name, **_: 2e6 if name == PEER else None)
    setting = models.Setting(reference=PEER, throughput_batch=2, size=64, seconds=0.05)
    rows = models.run(["vmamba_nano_test"], setting, peers=[])
    by_name = {row["model"]: row for row in rows}
    assert set(by_name) == {"vmamba_nano_test", PEER}
    assert by_name[PEER]["latency / reference"] == 1
    ours = by_name["vmamba_nano_test"]
    assert ours["images/s"] > 0
    assert ours["throughput_batch"] == 2
    assert ours["latency / reference"] > 0
    assert (by_name[PEER]["peak memory MB"], ours["peak memory MB"]) == (2, None)
    assert ours["peer"] is None
    assert "vmamba_nano_test" in table(models.shown(rows))
    write_json(tmp_path / "rows.json", rows)
    assert json.loads((tmp_path / "rows.json").read_text())["machine"]["threads"] == torch.get_num_threads()


def _measured(name: str, setting: models.Setting, *, counted: tuple[int, int]) -> models.Row:
    """A row of a machine on which the latency and the throughput are the length of the name."""
    length = float(len(name))
    kind = "ours" if name.endswith("_nano_test") else "timm"
    figures = {
        "reference ms": 100.0,
        "GFLOPs": counted[0] / 1e9,
        "parameters M": counted[1] / 1e6,
        "latency / reference": length,
        "images/s": length,
    }
    return {"model": name, "kind": kind, **figures, **asdict(setting)}


def test_cut_off_run_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = models.Setting(reference=PEER, size=64)
    measured: list[str] = []
    kept: list[list[models.Row]] = []

    def measure(name: str, *args: Any, **kwargs: Any) -> models.Row:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(name)
        return _measured(name, *args, **kwargs)

    monkeypatch.setattr(models, "measure", measure)
    names = ["vmamba_nano_test", "vim_nano_test"]
    with pytest.raises(KeyboardInterrupt):
        models.run(names, setting, peers=[PEER], keep=kept.append)
    first = list(measured)
    measured.clear()
    rows = models.run(names, setting, peers=[PEER], done=kept[-1])
    assert sorted([*first, *measured]) == sorted([*names, PEER])
    assert [row["model"] for row in rows] == sorted([*names, PEER], key=lambda name: multiply_adds_of(name, 64)[0])
    with pytest.raises(ValueError, match="another size"):
        models.run(names, models.Setting(reference=PEER, size=32), done=kept[-1])


def test_a_model_is_compared_with_the_peer_of_the_most_similar_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"vmamba_nano_test": 100, "near_it": 104, "nearer": 99, "far": 900, PEER: 5}
    monkeypatch.setattr(models, "multiply_adds_of", lambda name, _: (counts[name] * 10**9, 1))
    monkeypatch.setattr(models, "measure", _measured)
    rows = models.run(["vmamba_nano_test"], models.Setting(reference=PEER), peers=["near_it", "nearer", "far"])
    row = next(row for row in rows if row["model"] == "vmamba_nano_test")
    assert row["peer"] == "nearer"
    assert row["latency / peer"] == len("vmamba_nano_test") / len("nearer")


def test_a_model_that_was_disturbed_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_took = {PEER: [100.0], "vmamba_nano_test": [500.0, 120.0], "vim_nano_test": [500.0, 300.0, 400.0]}

    def measure(name: str, *args: Any, **kwargs: Any) -> models.Row:
        return {**_measured(name, *args, **kwargs), "reference ms": reference_took[name].pop(0)}

    monkeypatch.setattr(models, "measure", measure)
    counts = {PEER: 1, "vmamba_nano_test": 2, "vim_nano_test": 3}
    monkeypatch.setattr(models, "multiply_adds_of", lambda name, _: (counts[name] * 10**9, 1))
    rows = models.run(["vmamba_nano_test", "vim_nano_test"], models.Setting(reference=PEER), peers=[])
    assert [row["reference ms"] for row in rows] == [100, 120, 300]
    assert not any(reference_took.values())


@pytest.mark.parametrize("content", ["[]", "{", '{"rows": [], "machine": {"processor": "abacus"}}'])
def test_rows_of_elsewhere_are_not_gone_on_with(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=r"rows\.json"):
        read_rows(tmp_path / "rows.json")


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("tools_benchmark", ROOT / "tools/benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_fast_command_writes_a_row_for_every_chosen_model_and_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "peak_memory", lambda *_, **__: pytest.fail("the memory was measured"))
    monkeypatch.setattr(
        models, "medians_in_turn", lambda runs, **_: {name: run().numel() for name, run in runs.items()}
    )
    out = [f"--{kind}={tmp_path / f'models.{kind}'}" for kind in ("json", "png")]
    chosen = ["vmamba_nano_test", "vim_nano_test", "hrvmamba_nano_test"]
    command = ["models", "--fast", "--size=64", "--throughput-batch=1", "--peers", "--reference", PEER]
    command += ["--models", *chosen, *out, f"--threads={torch.get_num_threads()}"]
    assert _tool().main(command) == 0
    rows = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {*chosen, PEER}
    printed = capsys.readouterr().out
    assert all(name in printed for name in chosen)
    assert (tmp_path / "models.png").stat().st_size > 10_000

    monkeypatch.setattr(models, "measure", lambda *_, **__: pytest.fail("a model was measured again"))
    assert _tool().main([*command, "--resume"]) == 0
    assert _tool().main([*command, "--resume", "--batch=2"]) == 2


def test_published_command_prints_the_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(published, "multiply_adds_of", lambda *_: (4_900_000_000, 30_250_000))
    for other in (estimators, yolo_sizes, segmenters):  # each has a test of its own, which counts
        monkeypatch.setattr(other, "rows", lambda: iter(()))
    assert _tool().main(["published"]) == 0
    first, *others = capsys.readouterr().out.split("\n\n")
    printed = first.splitlines()
    headers = [list(x.HEADER) for x in (estimators, yolo_sizes, segmenters)]
    assert [text.splitlines()[: len(header)] for text, header in zip(others, headers, strict=True)] == headers
    assert len(printed) == len(published.HEADER) + len(published.figures())
    assert "| `vmamba_tiny_s1l8` | 30.25M | 30.2M | 4.90 | 4.9 | 82.6 |" in printed[2]


def test_tables_in_the_docs_are_of_the_recorded_runs_and_have_every_variant() -> None:
    measured: set[str] = set()
    for name in ("models", "models_large", "models_one_thread"):
        rows = json.loads((ROOT / f"docs/benchmarks/{name}.json").read_text())["rows"]
        assert table(models.shown(rows)) in (ROOT / "docs/models.md").read_text()
        assert len({(row["size"], row["batch"], row["throughput_batch"], row["reference"]) for row in rows}) == 1
        measured |= {row["model"] for row in rows}
    of_detectors = {"mambayolo_t", "mambayolo_b", "mambayolo_l"}  # not classifiers: `tools/benchmark.py yolo`
    assert set(models.select(["*"])) - of_detectors <= measured


def test_clock_of_the_processor_does_not_see_the_time_that_others_take() -> None:
    def waits() -> None:
        time.sleep(0.05)

    times = {name: median(waits, seconds=0.0, clock=clock) for name, clock in CLOCKS.items()}
    assert times["wall"] >= 0.05 > 2 * times["processor"]
    assert medians_in_turn({"waits": waits}, seconds=0.0, clock=CLOCKS["processor"])["waits"] < 0.025


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
        {"model": f"model_{i}", "kind": kind, "GFLOPs": 1.0 + i, "latency / reference": 0.5 + i}
        | {"batch": 1, "size": 64, "reference": PEER}
        for i, kind in enumerate(["ours", "timm", "ours"])
    ]
    models.scatter(rows, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_many_models_share_a_colour_a_family() -> None:
    names = ["vmamba_tiny_s1l8", "vmamba_v0_tiny", "vim_tiny", "mambaout_femto", PEER]
    ours = [name for name in names if not name.startswith(("mambaout", "test"))]
    rows = [{"model": name, "kind": "ours" if name in ours else "timm"} for name in names]
    groups = {label: [row["model"] for row in chosen] for label, chosen in models._groups(rows, few=False).items()}
    assert groups == {
        "timm": [PEER],
        "vmamba": ["vmamba_tiny_s1l8", "vmamba_v0_tiny"],
        "vim": ["vim_tiny"],
        "mambaout (timm)": ["mambaout_femto"],
    }
    assert models._groups(rows, few=True).keys() == {"timm", "visionssm"}
