"""`visionssm NAME …` as one types it: every command, configurations by name, completion, what a training says last."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config

from visionssm import cli
from visionssm.cli import ending, tables, train
from visionssm.engine import shipped
from visionssm.engine.config import load_config
from visionssm.engine.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_has_an_example_of_it(name: str) -> None:
    text = importlib.import_module(f"visionssm.cli.{name}").make_parser().format_help()
    assert f"visionssm {name} " in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_ctrl_c_ends_a_command_with_a_sentence_and_the_status_that_shells_expect(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"visionssm.cli.{name}.make_parser", interrupted)
    assert cli.main([name]) == 130
    assert capsys.readouterr().err == (
        "stopped by SIGINT: files that are there are complete, what was in hand was not written\n"
    )


def test_help_and_version_come_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("visionssm 0.")


@pytest.mark.parametrize("given", [[], ["trian"]])
def test_no_known_command_is_status_2_and_says_which_there_are(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(given) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in cli.COMMANDS)
    assert ("there is no command 'trian'; closest: 'train'" in told) == bool(given)


def test_python_runs_the_package_as_the_command() -> None:
    run = [sys.executable, "-m", "visionssm", "--help"]
    assert "visionssm COMMAND" in subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_shipped_configurations_have_unique_names_and_say_what_they_are() -> None:
    files = [path for path in (ROOT / "configs").rglob("*.py") if path.parent.name != "_base_"]
    assert sorted(shipped.shipped_configs()) == sorted(path.stem for path in files)
    assert all(len(shipped.about_config(path)) > 20 for path in files)


@pytest.mark.parametrize(
    "given",
    ["vim_nano_digits", "configs/classification/vim/vim_nano_digits.py", "classification/vim/vim_nano_digits.py"],
)
def test_a_configuration_is_found_by_name_or_place_from_any_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find_config(given) == ROOT / "configs/classification/vim/vim_nano_digits.py"
    assert load_config(given).model.name == "vim_nano_test"


def test_a_file_of_ones_own_is_meant_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vim_nano_digits").write_text("")
    Path("configs").mkdir()
    Path("configs/vmamba_nano_digits.py").write_text("")
    assert shipped.find_config("vim_nano_digits") == Path("vim_nano_digits")
    assert shipped.find_config("configs/vmamba_nano_digits.py") == Path("configs/vmamba_nano_digits.py")


@pytest.mark.parametrize("given", ["vim_nano_digit", "../visionssm/setup", "_base_"])
def test_what_is_no_configuration_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(given)


def test_a_mistyped_name_is_told_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["vim_nano_digit"]) == 1
    assert "closest: 'vim_nano_digits'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vmunet_isic", "lion_rwkv_kitti", "vmamba_t_imagenet"])
def test_a_copy_means_the_same_and_is_not_overwritten(name: str, tmp_path: Path) -> None:
    first, *bases = shipped.copy_config(name, tmp_path)
    assert bases
    assert Config.fromfile(first).to_dict() == Config.fromfile(shipped.find_config(name)).to_dict()
    assert shipped.copy_config(name, tmp_path)[0] == first
    first.write_text(first.read_text() + "# mine\n")
    with pytest.raises(ConfigError, match="differs"):
        shipped.copy_config(name, tmp_path)
    assert first.read_text().endswith("# mine\n")


def test_a_configuration_of_the_clone_is_copied_by_its_path_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert train.main(["configs/vmamba_t_imagenet.py", "--copy", str(tmp_path / "my configs")]) == 0
    assert (tmp_path / "my configs/vmamba_t_imagenet.py").is_file()
    assert (tmp_path / "my configs/_base_/imagenet.py").is_file()
    own = tmp_path / "own.py"
    own.write_text("")
    assert train.main([str(own), "--copy", str(tmp_path)]) == 1
    assert "does not come with visionssm" in capsys.readouterr().err


def test_list_prints_names_and_first_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["vim_*_digits", "--list"]) == 0
    told = capsys.readouterr().out
    assert "configs/classification/vim" in told
    assert "vim_nano_digits  A small Vim on the handwritten digits" in told
    assert "vmamba_nano_digits" not in told
    assert train.main(["no_such_*", "--list"]) == 1


def test_completion_knows_commands_and_options() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "visionssm", "completion", "bash"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    asked = script + (
        '\nCOMP_WORDS=(visionssm "$1" "$2"); COMP_CWORD=$3; _shtab_visionssm 2>/dev/null; echo "${COMPREPLY[@]}"'
    )

    def completed(*words: str) -> str:
        return subprocess.run(["bash", "-c", asked, "-", *words], capture_output=True, text=True, check=True).stdout

    assert completed("tr", "", "1").split() == ["train"]
    assert "--resume" in completed("train", "--re", "2").split()


def _runner(folder: Path, score: float | None = 0.875, metric: str | None = "accuracy") -> Any:
    hub = SimpleNamespace(get_info=lambda key, default=None: score if score is not None else default)
    return SimpleNamespace(work_dir=folder, message_hub=hub, hooks=[SimpleNamespace(save_best=metric)])


def test_a_training_ends_with_the_best_figure_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/visionssm", "train"])
    work = tmp_path / "my run"
    work.mkdir()
    (work / "best.pth").touch()
    lines = ending.ending(_runner(work), "vmamba_nano_digits")
    assert lines[0] == "best accuracy: 0.875, of the weights in my run/best.pth"
    percent = ending.ending(_runner(work, 87.5, "top1"), "vmamba_nano_digits")[0]
    assert percent.startswith("best top1: 87.5 %, of")
    assert lines[1] == "next:  visionssm test vmamba_nano_digits 'my run/best.pth'"
    assert lines[2].split() == ["visionssm", "predict", "'my", "run/best.pth'", "FILE_OR_FOLDER…"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "tools/train.py")])
    assert ending.ending(_runner(work), "x.py")[1].startswith(f"next:  python {ROOT}/tools/test.py x.py ")


def test_a_training_without_validation_names_its_last_weights(tmp_path: Path) -> None:
    assert "no weights were saved" in ending.ending(_runner(tmp_path, None), "x.py")[0]
    (tmp_path / "epoch_1.pth").touch()
    assert "epoch_1.pth" in ending.ending(_runner(tmp_path, None), "x.py")[0]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_usage_names_the_command_as_it_was_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"visionssm.cli.{name}")
    monkeypatch.setattr(sys, "argv", ["/x/visionssm/__main__.py", name])
    assert module.make_parser().format_usage().startswith(f"usage: visionssm {name} ")
    started = ROOT / "tools" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(started)])
    expected = f"python {started}" if started.is_file() else f"visionssm {name}"
    assert module.make_parser().prog == expected


@pytest.mark.parametrize("ends_by, status", [("print('x' * 10**6) or 0", 141), ("stop()", 130)])
def test_a_closed_pipe_and_ctrl_c_end_a_command_without_a_traceback(ends_by: str, status: int) -> None:
    code = f"""
import sys, types, visionssm_command
from visionssm import cli
def stop(): raise KeyboardInterrupt
sys.modules["visionssm.cli.models"] = types.SimpleNamespace(main=lambda given: {ends_by})
sys.exit(cli.main(["models"]))
"""
    reading, writing = os.pipe()
    os.close(reading)
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writing)
    assert (ended.returncode, "Traceback" in ended.stderr) == (status, False)


def test_a_narrow_terminal_gets_the_columns_that_fit_and_keeps_the_first() -> None:
    header, rows = ("model", "task", "GFLOPs"), [("vim", "classification", "1.2"), ("vmamba_tiny", "x", "4.9")]
    assert tables.fitting(header, rows, ("GFLOPs", "task"), 35) == ([*header], [[*row] for row in rows])
    assert tables.fitting(header, rows, ("GFLOPs", "task"), 34)[0] == ["model", "task"]
    assert tables.fitting(header, rows, ("GFLOPs", "task"), 3) == (["model"], [["vim"], ["vmamba_tiny"]])
