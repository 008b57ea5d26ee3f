"""tools/test.py as a command."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.engine.tiny import write_config
from tests.forks import run_forked
from visionssm.cli.launch import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_test", ROOT / "tools/test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(write_config(folder), work_dir=folder, options={"train_cfg.max_epochs": 1})
    return folder


def test_accuracies_are_printed_and_predictions_written(
    tool: ModuleType, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictions.csv"
    arguments = [str(trained / "tiny.py"), str(trained / "epoch_1.pth"), "--out", str(out), "--work-dir", str(tmp_path)]
    assert tool.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "\ntop1: " in printed
    assert "\ntop5: " in printed
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    assert len({row["sample"] for row in rows}) == 90
    for row in rows:
        assert row["correct"] == str(int(row["predicted"] == row["label"]))
        scores = [float(row[f"score_{rank}"]) for rank in range(1, 6)]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) <= 1.0001


@pytest.mark.parametrize("name, message", [("none.pth", "does not exist"), ("tiny.py", "not a checkpoint|not|text")])
def test_missing_or_foreign_checkpoint_is_told(
    tool: ModuleType, trained: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert tool.main([str(trained / "tiny.py"), str(trained / name)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    assert any(x in printed for x in message.split("|"))


def test_checkpoint_of_another_size_is_told(
    tool: ModuleType, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(trained / "tiny.py"), str(trained / "epoch_1.pth"), "--work-dir", str(tmp_path)]
    assert tool.main([*arguments, "--cfg-options", "model.num_classes=11"]) == 1
    assert "num_classes is 10, the config's 11" in capsys.readouterr().err


def test_processes_share_the_samples_and_one_of_them_writes_and_prints(
    tool: ModuleType, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def evaluate(folder: Path) -> int:
        arguments = [str(trained / "tiny.py"), str(trained / "epoch_1.pth"), "--work-dir", str(folder / "work")]
        arguments += ["--out", str(folder / "out.csv"), "--pictures", str(folder / "pictures")]
        odd = ["val_dataloader.dataset.val_fraction=0.0175", "val_dataloader.batch_size=10"]
        return tool.main([*arguments, "--cfg-options", *odd])

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert evaluate(alone) == 0
    figures = {line for line in capfd.readouterr().out.splitlines() if line.startswith(("top", "nll"))}
    ended = run_forked(4, lambda rank: evaluate(shared), tmp_path / "said")

    assert [x.status for x in ended] == [0] * 4, ended
    assert {line for line in ended[0].out.splitlines() if line.startswith(("top", "nll"))} == figures
    assert [x.out for x in ended[1:]] == [""] * 3
    rows = [list(csv.DictReader((folder / "out.csv").open())) for folder in (alone, shared)]
    assert len(rows[0]) == 30, "no multiple of the number of processes"
    assert [row["sample"] for row in rows[1]] == [row["sample"] for row in rows[0]]
    for one, two in zip(*rows, strict=True):
        assert one["predicted"] == two["predicted"]
        assert float(one["score_1"]) == pytest.approx(float(two["score_1"]), rel=1e-4)
    assert len({x.name for x in (alone / "pictures").rglob("*.png")}) == 30
    assert {x.name for x in (alone / "pictures").rglob("*.png")} == {
        x.name for x in (shared / "pictures").rglob("*.png")
    }
