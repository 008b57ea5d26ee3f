"""Tables of tiles: what they choose, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.kernels import tiles
from visionssm.kernels.tiles import PASSES, Row, Tile, read_table, saved_apart, tile_for, write_table

GPU = "NVIDIA X1 80GB (rev. 2)"
ROW = Row("forward", (1, 1), (6, 6), (2, 2), Tile(16, 64, 2, 128, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "default.json").write_bytes((tiles.FOLDER / "default.json").read_bytes())
    monkeypatch.setattr(tiles, "FOLDER", tmp_path)
    tiles.forget_tables()
    yield tmp_path
    monkeypatch.undo()
    tiles.forget_tables()


def test_default_has_a_tile_for_every_scan_that_divides_what_lies_between_saved_states() -> None:
    for pass_ in PASSES:
        for d_state in range(1, 65):
            for rank in (0, 1, 16, 17, 32, 33, 96, 100_000):
                for itemsize in (2, 4):
                    assert saved_apart(d_state) % tile_for(pass_, d_state, rank, itemsize).steps == 0


def test_default_holds_registers_down_only_where_nothing_would_spill() -> None:
    found = [tile_for("forward", *sizes).maxnreg for sizes in ((1, 6, 4), (4, 48, 2), (1, 48, 4), (16, 6, 2))]
    assert found == [160, 160, None, None]
    found = [tile_for("backward", *sizes).maxnreg for sizes in ((1, 6, 2), (1, 6, 4), (4, 24, 2), (16, 6, 2))]
    assert found == [168, None, None, None]


def test_table_of_a_gpu_comes_before_the_default_and_only_for_its_rows(folder: Path) -> None:
    write_table(tiles.path_of(GPU), GPU, [ROW])
    assert tiles.path_of(GPU) == folder / "NVIDIA_X1_80GB_rev_2.json"
    assert tile_for("forward", 1, 6, 2, gpu=GPU) == ROW.tile
    for others in (("backward", 1, 6, 2), ("forward", 1, 7, 2), ("forward", 2, 6, 2), ("forward", 1, 6, 4)):
        assert tile_for(*others, gpu=GPU) == tile_for(*others)
    assert tile_for("forward", 1, 6, 2, gpu="another") == tile_for("forward", 1, 6, 2)


def test_table_of_another_gpu_is_refused(folder: Path) -> None:
    write_table(tiles.path_of(GPU), "NVIDIA X1 40GB", [ROW])
    with pytest.raises(ValueError, match=r"has tiles of 'NVIDIA X1 40GB', and this is 'NVIDIA X1 80GB .*measure"):
        tile_for("forward", 1, 6, 2, gpu=GPU)
    del folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 32}, "steps=32 does not divide the 16 steps between saved states"),
        ({"steps": 12}, "steps=12 is no power of two"),
        ({"channels": 1 << 20}, "channels=1048576 is no power of two from 16 to 256"),
        ({"num_warps": True}, "num_warps=True is no power of two"),
        ({"num_stages": 99}, "num_stages=99 is neither null nor a whole number from 1 to 8"),
        ({"maxnreg": "all"}, "maxnreg='all' is neither null"),
        ({"rank": [7, 6]}, r"rank=\[7, 6\] is no range"),
        ({"states": 1}, "states=1 is no range of whole numbers from 1 to 64"),
        ({"pass": "sideways"}, "pass='sideways' is none of forward, backward"),
        ({"extra": 1}, "is not an object with"),
    ],
    ids=str,
)
def test_row_that_no_kernel_takes_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_table(path, GPU, [ROW])
    table = json.loads(path.read_text())
    assert read_table(path, GPU) == (ROW,)
    table["tiles"][0] |= change
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=message):
        read_table(path, GPU)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tiles": 1}', "[" * 100_000, " " * (1 << 21)])
def test_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"table\.json (is not JSON|has no list|has more than)"):
        read_table(path, GPU)


def test_tables_are_in_the_package() -> None:
    import tomllib

    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "kernels/tiles/*.json" in pyproject["tool"]["setuptools"]["package-data"]["visionssm"]


def test_tiles_options_reach_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    from visionssm.kernels.selective_scan import gpu
    from visionssm.kernels.selective_scan.gpu_arguments import forget_plans

    forget_plans()
    monkeypatch.setattr(gpu, "forward_tile", lambda *_: ROW.tile)
    launch = gpu.launches(pixels=49, channels=96, d_state=1, routes=4, rank=6, dtype=torch.bfloat16)["forward"]
    forget_plans()
    assert launch.options("cuda") == {"num_warps": 2, "num_stages": 3, "maxnreg": 128}
    assert (launch.constants["STEPS"], launch.constants["CHANNELS"]) == (16, 64)


def test_tuning_writes_the_fastest_tile_and_leaves_out_what_the_default_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    from visionssm.benchmarks.gpu import tuning
    from visionssm.benchmarks.gpu.setting import TINY, Setting

    fast, slow, broken = Tile(16, 64, 1), Tile(16, 64, 2), Tile(16, 128, 1)

    def milliseconds(setting: Setting, x: object, pass_: str, tile: Tile) -> float | None:
        del setting, x
        times = {fast: 1.0, slow: 1.5, broken: None}
        return times.get(tile, 2.0) if pass_ == "forward" else 2.0

    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    setting = Setting("cpu", (TINY,), (1,), (), 32, 0.0, 64, lambda _: 0.0)
    path = tmp_path / "table.json"
    rows = tuning.tune(setting, path, GPU, minutes=1, candidates=(broken, slow, fast, Tile(32, 32, 1)))
    assert [row.tile for row in rows] == [fast]
    assert read_table(path, GPU) == (Row("forward", (1, 1), (2, 2), (2, 2), fast),)


def test_tuning_launches_every_candidate_that_divides_what_lies_between_saved_states(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    from visionssm.benchmarks.gpu import tuning
    from visionssm.benchmarks.gpu.setting import TINY, Setting
    from visionssm.benchmarks.gpu.stand_in import stand_in
    from visionssm.kernels import use_backend

    def milliseconds(function: Any) -> float:
        function()
        return 1.0

    setting = Setting("cpu", (TINY,), (1,), (), 32, 0.0, 64, milliseconds)
    candidates = (Tile(16, 64, 1), Tile(16, 32, 2), Tile(64, 32, 1))
    with stand_in() as starts, use_backend("triton"):
        rows = tuning.tune(setting, tmp_path / "table.json", GPU, minutes=1, candidates=candidates)
    assert rows == []
    assert [start.kernel for start in starts].count("selective_scan_forward") == 6  # of the default and two, twice
    assert [start.kernel for start in starts].count("selective_scan_backward") == 3
