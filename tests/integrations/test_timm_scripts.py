"""timm's scripts see our models when they are started through `visionssm.integrations.timm`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from visionssm.integrations import timm as runner

SCRIPT = """
import argparse
import neighbour
import timm, torch

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model")
    parser.add_argument("--model-kwargs", nargs="*", default={})
    options = parser.parse_args()
    model = timm.create_model(options.model, num_classes=neighbour.CLASSES)
    print(options.data, tuple(model(torch.rand(1, 3, 64, 64)).shape))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("CLASSES = 7\n")
    (tmp_path / "validate.py").write_text(SCRIPT)
    return tmp_path / "validate.py"


def test_a_script_sees_our_models_its_arguments_and_its_neighbours(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["before"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    assert runner.main([str(script), "photos", "--model", "vmamba_nano_test"]) == 0
    assert capsys.readouterr().out.split("\n")[0] == "photos (1, 7)"


@pytest.mark.slow
def test_it_is_a_module_that_python_runs(script: Path) -> None:
    command = [sys.executable, "-m", "visionssm.integrations.timm", str(script), "photos", "--model", "vim_nano_test"]
    assert "photos (1, 7)" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_script_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["no_such_script.py"]) == 2
    assert "no_such_script.py" in capsys.readouterr().err
    assert runner.main([]) == 2
    assert "validate.py" in capsys.readouterr().err
