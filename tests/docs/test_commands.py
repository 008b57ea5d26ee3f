"""Every command of README and docs is one that its tool takes; those that need no download or long time are run."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.docs.pages import PAGES, ROOT, Block, blocks, commands
from visionssm.cli import COMMANDS

# Which commands are not run, and why. What their tool makes of the arguments is checked all the same.
ONLY_PARSED = {
    r"imagenet|_coco|_ade20k|PATH": "needs a data set",
    r"arrow_pointing|moving_digits|_nano_scenes|_mmdet|_mmseg": "trains for minutes; tests/tasks train it for a step",
    r"_figures": "trains for minutes; tests/tasks/pose trains it for a step",
    r"_textures|photos_to_restore": "trains for minutes; tests/tasks/restoration train it for a step",
    r"_mni152": "trains for minutes; tests/tasks/medical train it for a step",
    r"benchmark\.py|inspect_kernels\.py": "measures for minutes",
    r"finetune_folder": "needs a folder of classes; tests/tasks/classification/test_folder.py trains it",
    r"--launcher": "needs several processes",
    r"vssm1_|--pretrained": "needs a file of the authors",
    r"epoch_300|CHECKPOINT|…": "stands for any",
}
SLOW = re.compile(r"export\.py")  # run only with the slow tests, as what Python exports into an archive
SLOW_PYTHON = re.compile(r"visionssm\.export_archive\(")
DIGITS = "python tools/train.py configs/vmamba_nano_digits.py"  # what other pages take for granted
DIGITS_WEIGHTS = "work_dirs/vmamba_nano_digits/best.pth"
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_FEW_SHAPES = [f"{x}.dataset.spec.{split}=8" for x in _LOADERS for split in ("train", "val", "test")]
# What is added to trainings and tests, so that they take seconds.
SHORTER = {"vmamba_nano_digits": ["train_cfg.max_epochs=1"], "shapes_": ["train_cfg.max_epochs=1", *_FEW_SHAPES]}
OTHER_PROGRAMS = {"pip", "pytest", "ruff", "mypy", "mkdocs", "pre-commit", "python3"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a clone has and with the files that the commands name."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "tools"):
        (folder / name).symlink_to(ROOT / name)
    numbers = np.random.default_rng(0)
    for name in ("photo.jpg", "cat.jpg", "photo.png", "page.png", "folder/a.png", "digits/45_3.png", "photos/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (40, 48), dtype=np.uint8)).save(folder / name)
    points = numbers.uniform((2, -10, -2, 0), (36, 10, 0, 1), (400, 4))
    (folder / "sweep.bin").write_bytes(points.astype("<f4").tobytes())
    return folder


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "slow"])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page_run_from_top_to_bottom(
    page: Path, slow: bool, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setenv("VISIONSSM_CACHE", str(clone / "cache"))
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        assert block.language in ("bash", "python", "text", "yaml"), f"{block}: say what it is: ```bash, python or text"
        if block.not_run is not None or block.packages or block.language in ("text", "yaml"):
            continue
        try:
            if block.language == "python" and SLOW_PYTHON.search(block.code) and not slow:
                compile(block.code, str(block), "exec")
            elif block.language == "python":
                exec(compile(block.code, str(block), "exec"), namespace)
            else:
                for command in commands(block.code):
                    _command(command, slow)
        except Exception as error:
            raise AssertionError(f"{block}: {type(error).__name__}: {error}") from error


DEPLOYMENT = ROOT / "docs" / "deployment.md"
WITH_PACKAGES = [block for page in PAGES if page != DEPLOYMENT for block in blocks(page) if block.packages]


@pytest.mark.parametrize("block", WITH_PACKAGES, ids=lambda block: f"{block.page.stem}-{'-'.join(block.packages)}")
def test_block_with_another_package_runs_where_that_is_installed(
    block: Block, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in block.packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; tools/check_other_libraries.sh installs all of them")
    monkeypatch.chdir(clone)
    torch.manual_seed(0)
    exec(compile(block.code, str(block), "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_deployment_runs_from_top_to_bottom_with_what_is_installed(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(clone)
    namespace: dict[str, Any] = {}
    ran = set()
    for block in blocks(DEPLOYMENT):
        if block.not_run is not None or any(importlib.util.find_spec(name) is None for name in block.packages):
            continue
        if block.language == "bash":
            for command in commands(block.code):
                _command(command, slow=True)
        else:
            exec(compile(block.code, str(block), "exec"), namespace)
            ran |= set(block.packages)
    assert "onnxruntime" in ran


def _command(command: str, slow: bool) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "export":
        return
    program = Path(words[0]).name
    if program == "pip":
        _check_extras(command)
    elif program == "torchrun" or (program == "python" and words[1].startswith("tools/")):
        script = next(i for i, word in enumerate(words) if word.startswith("tools/"))
        _tool(words[script], words[script + 1 :], " ".join(words[script:]), slow)
    elif program == "visionssm":
        assert words[1] in COMMANDS
        _tool(f"tools/{words[1]}.py", words[2:], f"tools/{words[1]}.py {' '.join(words[2:])}", slow)
    elif program == "python" and words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None, f"no module {words[2]}"
    else:
        assert program in OTHER_PROGRAMS, f"unknown command {command!r}"


def _check_extras(command: str) -> None:
    for given in re.findall(r"(?:visionssm|\.)\[([\w,]+)\]", command):
        for extra in given.split(","):
            assert extra in EXTRAS, f"no extra {extra!r}"


_done: set[str] = set()


def _tool(script: str, arguments: list[str], command: str, slow: bool) -> None:
    """Parse the arguments as the tool does, look for the config, and run the command where it can run."""
    main = _main(script)
    for word in arguments:
        if word.startswith("configs/"):
            assert Path(word).is_file(), f"no configuration {word}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", _parse_only)
        with pytest.raises(_ParsedError):
            main(arguments)
    if any(re.search(pattern, command) for pattern in ONLY_PARSED) or (SLOW.search(command) and not slow):
        return
    if DIGITS_WEIGHTS in arguments and not Path(DIGITS_WEIGHTS).exists():
        _command(DIGITS, slow)
    if command in _done:
        return
    _done.add(command)
    if script in ("tools/train.py", "tools/test.py") and "--cfg-options" not in arguments:
        (options,) = (options for config, options in SHORTER.items() if config in command)
        arguments = [*arguments, "--cfg-options", *options]
    assert main(arguments) == 0, command


class _ParsedError(Exception):
    """The arguments were parsed."""


def _parse_only(parser: argparse.ArgumentParser, arguments: list[str] | None = None, _: Any = None) -> None:
    _, unknown = parser.parse_known_args(arguments)
    assert not unknown, f"unknown arguments {unknown}"
    raise _ParsedError


def _main(script: str) -> Callable[[list[str]], int]:
    name = f"tools_{Path(script).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / script)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name].main


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_that_do_not_run_say_why(page: Path) -> None:
    def reason(block: Block) -> str:
        return (block.not_run or "").strip()

    assert [str(block) for block in blocks(page) if block.not_run is not None and len(reason(block)) < 10] == []
    indented = re.findall(r"(?m)^\n    (?:python|pip|torchrun) .*$", page.read_text(encoding="utf-8"))
    assert indented == [], "commands stand in fenced blocks, where this test finds them"


def test_readme_tells_every_command_of_the_console() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sentence = text[text.index("`visionssm train …`") :].split("\n\n")[0]
    assert {name for name in COMMANDS if re.search(rf"`(visionssm )?{name}\b", sentence)} == set(COMMANDS)
    for name in ("train", "test", "predict", "visualize", "export"):
        assert (ROOT / "tools" / f"{name}.py").is_file()
