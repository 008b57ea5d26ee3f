"""The scan in bfloat16 as models call it: ours eagerly and from a CUDA graph, Python's share, the published kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visionssm.benchmarks.gpu.graphs import captured
from visionssm.benchmarks.gpu.published import published_kernel
from visionssm.benchmarks.gpu.scans import definition, inputs_on, triton_scan
from visionssm.benchmarks.gpu.setting import Setting, synchronize
from visionssm.benchmarks.kernels import Inputs, _materialised, forward_backward


def scans(setting: Setting) -> Iterator[dict[str, Any]]:
    """A row for each shape and batch, milliseconds.

    "forward": one call without gradients; "graph": the same, replayed; "python µs": host time per call while the GPU is
    never waited for; "both passes": forward and backward, "both graph" replayed. The published kernel's columns are
    None without it.
    """
    for shape in setting.shapes:
        for batch in setting.batches:
            x = inputs_on(replace(shape, batch=batch), setting.device, torch.bfloat16)
            row: dict[str, Any] = {"scan": shape.name, "batch": batch}
            with torch.no_grad():
                row["forward"] = setting.timer(partial(triton_scan, x))
                row["graph"] = _replayed(setting, partial(triton_scan, x))
                row["python µs"] = _host_microseconds(setting, partial(triton_scan, x))
                theirs = published_kernel(x) if setting.device == "cuda" else None
            row["published forward"] = setting.timer(theirs.forward) if theirs else None
            row["its copies"] = setting.timer(theirs.copies) if theirs and theirs.copies else None
            row["published backward"] = setting.timer(theirs.backward) if theirs else None
            del theirs
            x.require_grad()
            row["both passes"] = setting.timer(forward_backward(triton_scan, x))
            row["both graph"] = _replayed(setting, forward_backward(triton_scan, x))
            yield row
            _empty_cache(setting)


def others(setting: Setting, batch: int = 8) -> Iterator[dict[str, Any]]:
    """Forward scans in float32 beside the definition, step by step, and `torch.compile`'s associative scan alone.

    The compiled scan gets decays and inputs of all states in memory, which is not counted.
    """
    for shape in setting.shapes:
        x = inputs_on(replace(shape, batch=batch), setting.device, torch.float32)
        row: dict[str, Any] = {"scan": shape.name, "batch": batch}
        with torch.no_grad():
            row["ours"] = setting.timer(partial(triton_scan, x))
            row["definition"] = _once(setting, partial(definition, x))
            row["compiled scan alone"] = _compiled(setting, x) if setting.device == "cuda" else None
        yield row
        _empty_cache(setting)


def _compiled(setting: Setting, x: Inputs) -> float | str:
    from torch._higher_order_ops.associative_scan import associative_scan

    def then(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    @torch.compile(dynamic=False)
    def scan(decay: Tensor, drive: Tensor, c: Tensor) -> Tensor:
        _, h = associative_scan(then, (decay, drive), 2, combine_mode="pointwise")
        return torch.einsum("bktdn,bktn->bktd", h, c)

    try:
        decay, drive, _, c = _materialised(x)
        return setting.timer(lambda: scan(decay, drive, c))
    except Exception as error:  # what torch.compile cannot do is a result too
        return f"{type(error).__name__}: {str(error)[:80]}"


def _replayed(setting: Setting, function: Callable[[], object]) -> float | None:
    """Milliseconds of a replayed CUDA graph of the function; None without a GPU."""
    return setting.timer(captured(function)) if setting.device == "cuda" else None


def _host_microseconds(setting: Setting, function: Callable[[], object], calls: int = 40) -> float:
    calls = calls if setting.device == "cuda" else 1
    synchronize(setting)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    spent = time.perf_counter() - start
    synchronize(setting)
    return spent / calls * 1e6


def _once(setting: Setting, function: Callable[[], object]) -> float:
    """Milliseconds of the second call."""
    function()
    synchronize(setting)
    start = time.perf_counter()
    function()
    synchronize(setting)
    return (time.perf_counter() - start) * 1e3


def _empty_cache(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.empty_cache()
