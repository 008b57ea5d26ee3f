"""tools/train.py as a command: one run from end to end, and what it prints when something is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.engine.tiny import write_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_train", ROOT / "tools/train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)


def test_options_reach_the_run(tool: ModuleType, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    work = tmp_path / "work"
    arguments = [str(config), "--work-dir", str(work), "--amp", "--cfg-options", "train_cfg.max_epochs=1"]
    # 32 pixels: at 16 the last map is 1×1, where this PyTorch's bfloat16 convolutions can have undefined gradients.
    arguments += ["train_dataloader.dataset.size=32", "val_dataloader.dataset.size=32"]
    assert tool.main([*arguments, "train_dataloader.num_batch_per_epoch=1"]) == 0
    assert (work / "epoch_1.pth").exists()
    assert not (work / "epoch_2.pth").exists()
    assert "MixedPrecision" in (work / "tiny.py").read_text()
    assert "MixedPrecision" not in config.read_text()


@pytest.mark.parametrize(
    "options, message",
    [
        (["model.nmae=x"], "unknown key 'nmae' in model"),
        (["train_dataloader.dataset.type=TimmDataset", "train_dataloader.dataset.root=/no/such/data"], "unknown key"),
        (["randomnes.seed=1"], "unknown key 'randomnes'"),
    ],
)
def test_mistakes_are_one_line_and_status_1(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    status = tool.main([str(write_config(tmp_path)), "--work-dir", str(tmp_path), "--cfg-options", *options])
    printed = capsys.readouterr().err
    assert status == 1
    assert printed.startswith("error: ")
    assert message in printed
    assert "Traceback" not in printed


def test_config_inside_the_work_folder_is_not_overwritten(tool: ModuleType, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    before = config.read_text()
    options = ["train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=1"]
    assert tool.main([str(config), "--work-dir", str(tmp_path), "--cfg-options", *options]) == 0
    assert config.read_text() == before


def test_missing_config_and_missing_checkpoint_are_told(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(tmp_path / "none.py")]) == 1
    config = write_config(tmp_path)
    assert tool.main([str(config), "--work-dir", str(tmp_path), "--resume", str(tmp_path / "none.pth")]) == 1
    printed = capsys.readouterr().err
    assert "no configuration" in printed
    assert "none.pth' does not exist" in printed


def test_missing_packages_name_the_extra(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "rich" else find(name))
    assert tool.main([str(write_config(tmp_path))]) == 1
    assert "training needs rich: pip install visionssm[train]" in capsys.readouterr().err


def test_unusable_arguments_end_with_status_2(tool: ModuleType) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main(["x.py", "--launcher", "mpi"])
    assert stop.value.code == 2
