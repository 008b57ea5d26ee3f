"""A single test starts quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Parts of the extras, and what only some tests need: together they take longer to import than PyTorch.
HEAVY = "mmengine", "mmcv", "cv2", "sklearn", "scipy", "matplotlib", "onnx", "onnxruntime", "numba", "hypothesis"
REPORT = f"""
import sys

def pytest_configure(config):
    print("processes:", config.option.numprocesses)

def pytest_unconfigure(config):
    print("imported:", sorted(sys.modules.keys() & {{"torch", "timm", "visionssm", *{HEAVY}}}))
"""


def _run(folder: Path, *arguments: str) -> str:
    """What `REPORT` prints of a run with this project's settings on files of another folder."""
    (folder / "report.py").write_text(REPORT)
    options = ["-s", "-c", ROOT / "pyproject.toml", "--rootdir", folder, "-p", "tests.conftest", "-p", "report"]
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]; import pytest; sys.exit(pytest.main())"
    result = subprocess.run(
        [sys.executable, "-c", program, *options, "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "test_light.py").write_text("def test_nothing(): pass\n\ndef test_more(): pass\n")
    (tmp_path / "test_other.py").write_text("def test_nothing(): pass\n")
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "test_third.py").write_text("def test_nothing(): pass\n")
    (tmp_path / "test_package.py").write_text("import visionssm.kernels\n\ndef test_nothing(): pass\n")
    return tmp_path


@pytest.mark.parametrize("arguments", [("test_light.py",), ("test_light.py::test_nothing", "test_light.py::test_more")])
def test_tests_of_one_file_run_in_this_process_which_imports_nothing_else(
    files: Path, arguments: tuple[str, ...]
) -> None:
    output = _run(files, *arguments)
    assert "processes: 0" in output
    assert "imported: []" in output


def test_a_test_of_the_package_imports_no_extra(files: Path) -> None:
    output = _run(files, "test_package.py")
    assert "processes: 0" in output
    assert "imported: ['timm', 'torch', 'visionssm']" in output


@pytest.mark.parametrize("arguments", [("light",), ("test_light.py", "test_other.py")])
def test_tests_of_several_files_run_in_two_processes(files: Path, arguments: tuple[str, ...]) -> None:
    assert "processes: 2" in _run(files, *arguments, "--collect-only")
