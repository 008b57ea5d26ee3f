"""Everything in `visionssm.__all__` is there, is documented with an example, and its example runs as it stands."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import visionssm

PUBLIC = [name for name in visionssm.__all__ if name != "__version__"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "export_onnx" else name for name in PUBLIC]
)
def test_docstring_of_a_public_name_has_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    target: Any = getattr(visionssm, name)
    module = target if isinstance(target, ModuleType) else inspect.getmodule(inspect.unwrap(target))
    (test,) = doctest.DocTestFinder(recurse=False).find(target, name, module=module, globs=dict(vars(module)))
    assert test.examples, f"the docstring of {name} has no example"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", PUBLIC)
def test_signature_of_a_public_function_is_typed(name: str) -> None:
    target = getattr(visionssm, name)
    if isinstance(target, ModuleType) or inspect.isclass(target):
        return
    signature = inspect.signature(target)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []


def test_names_are_sorted_and_found_by_dir() -> None:
    assert visionssm.__all__ == sorted(visionssm.__all__)
    assert set(visionssm.__all__) <= set(dir(visionssm))
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        visionssm.no_such_name  # noqa: B018


def test_importing_the_package_imports_nothing_that_only_some_names_need() -> None:
    code = "import sys, visionssm; print(*(name for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    lazy = {x for x in visionssm._IMPORTED_WHEN_USED.values() if not x.startswith("visionssm.backbones.")}
    assert "visionssm.kernels" in loaded
    assert lazy & set(loaded) == set()
    assert {"mmengine", "onnxruntime", "onnxscript", "matplotlib", "monai"} & set(loaded) == set()
