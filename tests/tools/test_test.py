"""tools/test.py as a command."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.engine.tiny import write_config
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
