"""The GPU benchmark where there is no GPU: what it compares computes the same, rows are whole, errors are clear."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

from tests.children import KERNELS_ALONE, ROOT, interpreted
from visionssm.benchmarks.gpu import scans as gpu
from visionssm.benchmarks.gpu import stages
from visionssm.benchmarks.kernels import Inputs, Shape, ours

TINY = Shape("tiny", height=2, width=3, channels=4, d_state=2, dt_rank=2, n_routes=4, batch=2)


def test_published_layout_computes_what_we_compute() -> None:
    x = Inputs.random(TINY)
    actual = gpu.around_published_kernel(x, gpu.plain_channels_first_scan)
    torch.testing.assert_close(actual, ours(x), rtol=1e-4, atol=1e-5)


def test_maps_take_the_dtype_and_parameters_stay_float32() -> None:
    x = gpu.inputs_on(TINY, "cpu", torch.bfloat16)
    assert {t.dtype for t in (x.u, x.low, x.b, x.c)} == {torch.bfloat16}
    assert {t.dtype for t in (x.weight, x.a, x.d, x.bias)} == {torch.float32}
    assert x.order.dtype == torch.int32


def test_candidate_that_runs_out_of_memory_has_no_figure() -> None:
    def too_large(x: Inputs) -> torch.Tensor:
        raise torch.OutOfMemoryError("too large")

    def timer(function: object) -> float:
        return float(function() is not None)  # type: ignore[operator]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "triton_scan", ours)
        scans = {"ours": ours, "large": too_large}
        row = gpu.measure(TINY, dtype=torch.float32, backward=False, device="cpu", timer=timer, scans=scans)
    assert row["large / ours"] is None
    assert row["ours ms"] == 1.0


CHILD = """
import json
from visionssm.benchmarks.gpu import scans as gpu
from visionssm.benchmarks.kernels import Shape

calls = []

def timer(function):
    function()
    calls.append(1)
    return float(len(calls))

shape = Shape("tiny", height=2, width=3, channels=4, d_state=2, dt_rank=2, n_routes=4)
rows = gpu.run(shapes=[shape], batches=[2], dtypes=["float32", "bfloat16"], device="cpu", timer=timer)
print(json.dumps(rows))
"""


def test_dry_run_in_the_interpreter_gives_a_row_for_every_dtype_and_pass() -> None:
    rows = json.loads(interpreted(KERNELS_ALONE + CHILD))
    passes = ("forward", "forward + backward")
    assert [(r["dtype"], r["pass"]) for r in rows] == [(t, p) for t in ("float32", "bfloat16") for p in passes]
    assert {r["batch"] for r in rows} == {2}
    for row in rows:
        assert row["definition / ours"] > 1  # the fake timer counts up, and the definition comes after ours
        assert row["difference to definition"] < (1e-5 if row["dtype"] == "float32" else 1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so there is no error")
def test_without_a_gpu_the_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status = runpy.run_path(str(ROOT / "tools" / "benchmark.py"))["main"](["gpu"])
    error = capsys.readouterr().err
    assert status == 2
    assert error.strip().splitlines() == [error.strip()]
    assert "no CUDA or ROCm GPU" in error


@pytest.mark.slow  # `.ci/run` runs it every time
def test_every_stage_works_in_the_interpreter_and_leaves_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    main = runpy.run_path(str(ROOT / "tools" / "benchmark.py"))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.chdir(ROOT)
        assert main(["gpu", "--all", "--dry-run", "--out", str(tmp_path), "--minutes", "30"]) == 0
    written = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert list(written) == list(stages.STAGES)
    assert {name: stage["ended"] for name, stage in written.items()} == dict.fromkeys(written, "complete")
    assert all(stage["rows"] for stage in written.values())
    assert [row["batch"] for row in written["scans"]["rows"]] == [1, 2]
    assert "passed" in written["correctness"]["rows"][0]["tests"]
    assert {path.name for path in tmp_path.glob("*.log")} == {f"{name}.log" for name in stages.STAGES}


def test_a_stage_that_takes_too_long_keeps_its_rows_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "import json, time; open({path!r}, 'w').write(json.dumps(dict(a=1)) + chr(10)); time.sleep({wait})"

    def child(name: str, rows: Path, dry_run: bool) -> list[str]:
        return [sys.executable, "-c", row.format(path=str(rows), wait=60 if name == "ceilings" else 0)]

    monkeypatch.setattr(stages, "_child", child)
    path = stages.run_all(tmp_path, minutes=1, dry_run=True, only=["ceilings", "scans"])
    written = json.loads(path.read_text())["stages"]
    assert written["ceilings"]["ended"].startswith("stopped after")
    assert written["scans"]["ended"] == "complete"
    assert written["ceilings"]["rows"] == written["scans"]["rows"] == [{"a": 1}]


def test_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such stage"):
        stages.run_all(tmp_path, only=["speed"])


def test_python_has_more_to_do_the_more_a_call_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from visionssm.benchmarks.gpu import overhead

    def functions_entered(function: Callable[[], object], calls: int) -> int:
        entered = 0

        def count(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal entered
            entered += event == "call"

        for _ in range(calls):  # plans and kernels are remembered
            function()
        sys.setprofile(count)
        try:
            function()
        finally:
            sys.setprofile(None)
        return entered

    times = {row["call"]: row["µs"] for row in overhead.run(calls=3)}
    assert min(times.values()) > 0
    monkeypatch.setattr(overhead, "microseconds", functions_entered)
    work = {row["call"]: row["µs"] for row in overhead.run(calls=3)}
    assert work.keys() == times.keys()
    assert 0 < work["kernels of a forward pass"] < work["inference"] < work["training, forward"]
    assert work["kernels of a backward pass"] > 0
    assert work["training, forward"] < work["training, with gradients"]
