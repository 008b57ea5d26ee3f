"""What commands import before they begin: those that only tell something start without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import visionssm
from visionssm import catalogue, visualization
from visionssm.backbones import list_models
from visionssm.benchmarks import choices, medical, restoration
from visionssm.benchmarks.gpu import scans, stages
from visionssm.benchmarks.timing import CLOCKS
from visionssm.catalogue.index import as_text, from_text, indexed
from visionssm.catalogue.info import ModelInfo
from visionssm.cli import COMMANDS
from visionssm.cli.visualize import ROUTES

ROOT = Path(__file__).parents[2]

RUN = """
import sys
sys.argv = ["/bin/visionssm"]
import visionssm_command
from visionssm.cli import main
for line in {lines!r}:
    try:
        status = main(line.split())
    except SystemExit as ended:
        status = ended.code
    print("STATUS", line, status, "torch" in sys.modules, "timm" in sys.modules, "mmengine" in sys.modules)
"""


def statuses(*lines: str, folder: Path) -> list[str]:
    run = [sys.executable, "-c", RUN.format(lines=list(lines))]
    ended = subprocess.run(run, capture_output=True, text=True, check=True, cwd=folder, env={"PYTHONPATH": str(ROOT)})
    return [line.removeprefix("STATUS ") for line in ended.stdout.splitlines() if line.startswith("STATUS ")]


def test_commands_that_tell_something_import_no_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    lines = [
        *(f"{name} --help" for name in COMMANDS),
        *("benchmark models --help", "visualize routes --help"),
        *("train --list", "train --list vim_*", "train vim_tiny_imagenet --copy copied"),
        *("models", "models vim_* --pretrained", "models vim_tiny", "models --json", "models --csv --task pose"),
        *(f"completion {shell}" for shell in ("bash", "zsh", "tcsh")),
    ]
    assert statuses(*lines, folder=tmp_path) == [f"{line} 0 False False False" for line in lines]
    assert any((tmp_path / "copied").rglob("vim_tiny_imagenet.py"))


def test_mistakes_in_the_words_of_a_command_are_told_without_pytorch(tmp_path: Path) -> None:
    lines = ["train", "train vim_tyny --copy copied", "models vim_tyny", "models --task nothing", "trian"]
    told = statuses(*lines, folder=tmp_path)
    assert told == [f"{line} {status} False False False" for line, status in zip(lines, (2, 1, 2, 2, 2), strict=True)]


def test_the_package_as_a_command_starts_like_the_command() -> None:
    run = [sys.executable, "-X", "importtime", "-m", "visionssm", "train", "--list"]
    ended = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "vmamba_nano_digits" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "visionssm.cli" in imported
    assert not imported & {"torch", "timm"}


@pytest.mark.parametrize(("module", "wanted"), [("visionssm", False), ("visionssm.kernels", True), ("pytest", True)])
def test_other_modules_that_are_run_have_the_models(module: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "visionssm_command", raising=False)
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", module])
    assert visionssm._models_are_wanted() is wanted


def test_the_index_of_models_is_what_the_registry_says() -> None:
    """Models that are timm's own are of the timm that is installed; their names are compared."""
    ours = {*list_models(), *(info.architecture for info in catalogue.entries() if info.task != "classification")}

    def known(infos: tuple[ModelInfo, ...]) -> list[ModelInfo | str]:
        return [info if info.architecture in ours else info.architecture for info in infos]

    found, expected = known(indexed()), known(catalogue.entries())
    assert found == expected, "run tools/write_results.py"


def test_the_index_gives_back_what_it_was_given() -> None:
    some = (
        ModelInfo("a.b", "classification", 1, 2, scores={"top1": 1.5}, input_size=(3, 2, 2), mean=(0.5,), license="ü"),
        ModelInfo("c", "pose"),
    )
    assert from_text(as_text(some)) == some


def test_choices_of_the_command_line_are_those_of_what_it_starts() -> None:
    assert sorted(visualization.ROUTES) == list(ROUTES)
    assert tuple(CLOCKS) == choices.CLOCKS
    assert tuple(medical.PARTS) == choices.MEDICAL_PARTS
    assert tuple(restoration.PARTS) == choices.RESTORATION_PARTS
    assert tuple(scans.DTYPES) == choices.DTYPES
    assert tuple(stages.STAGES) == choices.STAGES
