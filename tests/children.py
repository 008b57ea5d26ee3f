"""Child processes of tests: the checkout first on their path, Triton's interpreter where it works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
QUICKLY = "from tests.kernels.quick_interpreter import quicken\nquicken()\n"
# `visionssm.kernels` without `visionssm` itself, whose models and timm take longer to import than PyTorch.
KERNELS_ALONE = f"""
import sys, types
package = types.ModuleType("visionssm")
package.__path__ = [{str(ROOT / "visionssm")!r}]
sys.modules["visionssm"] = package
"""


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """This process's environment; the checkout and then `folders` come before what PYTHONPATH has."""
    path = [str(ROOT), *map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), **variables}


def interpreted(code: str) -> str:
    """What Python code prints while Triton interprets kernels, which it decides at its first import.

    Skips the test where there is no Triton, or one whose interpreter fails with the numpy here.
    """
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    triton, numpy = (_version(name) for name in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        pytest.skip(f"the interpreter of Triton {triton} fails with numpy {numpy}: only 0-dimensional arrays …")
    child = [sys.executable, "-c", QUICKLY + code]
    done = subprocess.run(child, env=environment(TRITON_INTERPRET="1"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors_of_cases(module: str) -> Any:
    """The JSON that a module of interpreted cases prints."""
    return json.loads(interpreted(f"{KERNELS_ALONE}import runpy\nrunpy.run_module({module!r}, run_name='__main__')"))


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])
