"""Commands where output, files and words are not as one would wish."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError
from visionssm.engine.shipped import find_config

ROOT = Path(__file__).parents[2]
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COMMAND = f"{sys.executable} -m visionssm"


def shell(line: str, folder: Path, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    run = ["bash", "-c", line]
    return subprocess.run(run, capture_output=True, cwd=folder, env=given, encoding="utf-8", errors="replace")


@pytest.mark.parametrize("words", ["--help", "train --help", "train --list", "models", "models --csv", "nothing"])
def test_output_of_few_letters_shows_what_it_cannot_encode(words: str, tmp_path: Path) -> None:
    ended = shell(f"{COMMAND} {words}", tmp_path, ASCII)
    assert ended.returncode == (2 if words == "nothing" else 0)
    assert "Traceback" not in ended.stderr
    assert "\\u2026" in ended.stdout + ended.stderr or "\\x" in ended.stdout or "\\u03c3" in ended.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed: str, tmp_path: Path) -> None:
    ended = shell(f"{COMMAND} train vim_tiny_imagenet --copy copied {closed}", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    (written,) = tmp_path.rglob("vim_tiny_imagenet.py")
    assert written.read_text(encoding="utf-8").startswith('"""')  # and nothing that was printed stands in it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["models", "train --list", "completion bash", "--help"])
def test_a_full_disk_behind_the_output_is_told(words: str, tmp_path: Path) -> None:
    ended = shell(f"{COMMAND} {words} > /dev/full", tmp_path)
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: cannot write or read what is printed: No space left on device\n",
    )


TOOL = (
    f"""{sys.executable} -c "import sys, visionssm_command; from visionssm.cli.train import main; sys.exit(main())" """
)


@pytest.mark.parametrize("start", [f"{COMMAND} models", f"{COMMAND} train --list", f"{TOOL} --list"])
def test_output_that_nobody_reads_ends_the_command_quietly(start: str, tmp_path: Path) -> None:
    ended = shell(f"{start} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_folder_that_cannot_be_written_into_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = shell(f"{COMMAND} train vim_tiny_imagenet --copy file/below", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot write configurations into 'file/below' (")


@pytest.mark.parametrize("words", ['train ""', 'train vim_tiny_imagenet --copy ""', 'predict m.onnx ""', 'models " "'])
def test_empty_words_are_refused(words: str, tmp_path: Path) -> None:
    ended = shell(f"{COMMAND} {words}", tmp_path)
    assert ended.returncode == 2
    assert "is empty: is a variable not set?" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="names no configuration"):
        find_config("")


def test_of_very_many_names_the_first_are_told() -> None:
    told = closest("??", [f"name{number:03d}" for number in range(100)])
    assert told.startswith("none is similar; known are name000, name001")
    assert told.endswith("name039 and 60 more")
