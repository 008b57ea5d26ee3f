"""Compiled kernels: their arguments, what they are made from, and where their machine code is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from numba.core.ccallback import CFunc

from tests.kernels.examples import OPERATORS
from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.kernel import _say_once, kernel, sources_digest
from visionssm.kernels.cpu.math import put

ROOT = Path(__file__).parents[2]


@kernel
def _difference(tasks, counter, left, right, target):  # type: ignore[no-untyped-def]
    """Under what names the arguments come is all that decides."""
    put(target, 0, left - right)


def test_arguments_are_matched_by_name() -> None:
    target = torch.empty(1, dtype=torch.float32)
    threads.run_kernel(_difference, 1, target=target.data_ptr(), right=2, left=9)
    assert target.item() == 7


def test_missing_and_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"_difference is called without \['right'\] and with unknown \['wrong'\]"):
        threads.run_kernel(_difference, 1, target=0, left=1, wrong=2)


def test_kernel_that_begins_otherwise_is_refused() -> None:
    with pytest.raises(TypeError, match="a kernel begins with"):
        kernel(lambda counter, tasks: None)


def test_digest_is_of_the_sources_that_a_kernel_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "visionssm.kernels.ssd.cpu_kernels"
    real, sources_digest_of = Path.read_bytes, sources_digest.__wrapped__
    before = sources_digest_of(module)

    def changed(name: str) -> str:
        monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + (b"#" if path.match(name) else b""))
        return str(sources_digest_of(module))

    for name in ("ssd/cpu_kernels.py", "cpu/math.py", "cpu/blocks.py", "cpu/sums.py", "cpu/kernel.py"):
        assert changed(name) != before, name
    for name in ("kernels/routes.py", "ssd/gpu.py", "ssd/op.py", "cpu/threads.py", "selective_scan/cpu_forward.py"):
        assert changed(name) == before, name


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    _say_once.cache_clear()
    return tmp_path


def _nine_minus_two() -> float:
    """By a kernel that knows no machine code but that on disk."""
    target = torch.empty(1, dtype=torch.float32)
    threads.run_kernel(kernel(_difference.function), 1, left=9, right=2, target=target.data_ptr())
    return target.item()


@pytest.mark.filterwarnings("error")
def test_machine_code_is_read_again_where_the_sources_are_the_same(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _nine_minus_two() == 7
    (file,) = kept_in.rglob("*.kernel")
    monkeypatch.setattr(CFunc, "_compile_uncached", lambda self: pytest.fail("compiled again"))
    assert _nine_minus_two() == 7
    monkeypatch.undo()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(kept_in))
    before = file.read_bytes()
    monkeypatch.setattr("visionssm.kernels.cpu.kernel.sources_digest", lambda module: "other sources")
    assert _nine_minus_two() == 7
    assert file.read_bytes() != before


@pytest.mark.parametrize("damage", ["changed byte", "cut short", "empty", "no pickle"])
def test_damaged_machine_code_is_said_once_and_made_again(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assert _nine_minus_two() == 7
    (file,) = kept_in.rglob("*.kernel")
    content = file.read_bytes()
    changed = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    damaged = {"changed byte": changed, "cut short": content[:-5], "empty": b"", "no pickle": b"?" * 99}
    file.write_bytes(damaged[damage])
    with pytest.warns(RuntimeWarning, match="is damaged: its kernel is compiled again") as said:
        assert [_nine_minus_two() for _ in range(3)] == [7, 7, 7]
    assert len(said) == 1
    monkeypatch.setattr(CFunc, "_compile_uncached", lambda self: pytest.fail("compiled again"))
    assert _nine_minus_two() == 7


@pytest.mark.parametrize("function", ["os.replace", "tempfile.NamedTemporaryFile"])
def test_machine_code_that_cannot_be_kept_is_said_once(
    kept_in: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"visionssm.kernels.cpu.kernel.{function}", full)
    with pytest.warns(RuntimeWarning, match="cannot be kept in .*No space left on device") as said:
        assert [_nine_minus_two() for _ in range(2)] == [7, 7]
    assert len(said) == 1
    assert not list(kept_in.rglob("*.kernel"))


STEPPED = """
import json
from tests.kernels.test_cpu_kernel import STEPPED_THROUGH, values_and_gradients
from visionssm.kernels.cpu.kernel import Kernel
Kernel.address = None  # nothing is compiled
print(json.dumps({name: [x.tolist() for x in values_and_gradients(name)] for name in STEPPED_THROUGH}))
"""
STEPPED_THROUGH = ("selective_scan", "ssd", "deformable_sum", "linear_recurrence", "plstm2d_four_directions")


def values_and_gradients(name: str) -> list[torch.Tensor]:
    """Of an operator's example."""
    inputs, call = OPERATORS[name]()
    found = call(*inputs)
    outputs = (found,) if isinstance(found, torch.Tensor) else found
    total = torch.stack([x.sin().sum() for x in outputs]).sum()
    return [x.detach() for x in (*outputs, *torch.autograd.grad(total, inputs))]


def test_kernels_that_are_stepped_through_give_the_numbers_of_compiled_ones() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", STEPPED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in STEPPED_THROUGH:
        for x, y in zip(found[name], values_and_gradients(name), strict=True):
            torch.testing.assert_close(torch.tensor(x), y, rtol=1e-4, atol=1e-4)
