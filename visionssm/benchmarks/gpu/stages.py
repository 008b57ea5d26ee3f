"""`visionssm benchmark gpu --all`: every stage in a process and a time of its own, one `results.json`, one table file.

A stage that fails, hangs or runs out of time leaves what it had measured, and the next one runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionssm.benchmarks.gpu.ceilings import ceilings
from visionssm.benchmarks.gpu.networks import networks
from visionssm.benchmarks.gpu.setting import DRY_RUN, ON_GPU, Setting
from visionssm.benchmarks.gpu.speed import others, scans
from visionssm.benchmarks.timing import progress, table
from visionssm.files import complete_or_absent

CORRECTNESS = "tests/kernels/test_on_gpu.py"


@dataclass(frozen=True)
class Stage:
    """A part of the run; `share` of the minutes is its own, and what earlier stages left over."""

    title: str
    share: float
    rows: Callable[[Setting], Iterator[dict[str, Any]]] | None  # None: the tests


STAGES = {
    "ceilings": Stage("What the GPU can do at most", 0.06, ceilings),
    "correctness": Stage("Cases of the operators' tests on the GPU", 0.3, None),
    "scans": Stage("The scan, bfloat16, milliseconds", 0.3, scans),
    "networks": Stage("Whole models, bfloat16 autocast", 0.25, networks),
    "others": Stage("The scan, float32, forward, milliseconds", 0.09, others),
}


def run_all(out: str | Path, *, minutes: float = 8.0, dry_run: bool = False, only: Sequence[str] = ()) -> Path:
    """Run the stages one after the other; returns the path of `results.json` in the folder `out`.

    Args:
        out: folder for `results.json`, `results.md` and a log per stage; made if absent.
        minutes: for all stages together.
        dry_run: tiny, on the CPU, with Triton's interpreter: proves that the stages work.
        only: names of `STAGES`; all if empty.

    Raises:
        ValueError: a stage is unknown.
    """
    wrong = [name for name in only if name not in STAGES]
    if wrong:
        raise ValueError(f"only={wrong}: no such stage; there are {', '.join(STAGES)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": _machine(dry_run), "stages": {}}
    saved = 0.0
    for name in only or STAGES:
        allowed = STAGES[name].share * minutes * 60 + saved
        progress(f"{name}: at most {allowed:.0f} s …")
        start = time.perf_counter()
        results["stages"][name] = _run_stage(name, out, allowed, dry_run)
        saved = max(0.0, allowed - (time.perf_counter() - start))
        with complete_or_absent(out / "results.json") as path:
            path.write_text(json.dumps(results, indent=1) + "\n")
        with complete_or_absent(out / "results.md") as path:
            path.write_text(markdown(results))
    return out / "results.json"


def _run_stage(name: str, out: Path, seconds: float, dry_run: bool) -> dict[str, Any]:
    """Rows of a stage, which ran in a child, and how that ended."""
    rows = out / f".{name}.jsonl"
    rows.unlink(missing_ok=True)
    environment = dict(os.environ)
    if dry_run:
        environment |= {"TRITON_INTERPRET": "1", "VISIONSSM_TEST_DEVICE": "cpu"}
    command = _tests(out, dry_run) if STAGES[name].rows is None else _child(name, rows, dry_run)
    start = time.perf_counter()
    with (out / f"{name}.log").open("w") as log:
        try:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=seconds)
            ended = "complete" if status.returncode == 0 else f"exit status {status.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        except OSError as error:
            ended = f"not started: {error}"
    found: list[dict[str, Any]]
    if STAGES[name].rows is None:
        found = [{"tests": _last_line(out / f"{name}.log")}]
    else:
        found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
        rows.unlink(missing_ok=True)
    return {"ended": ended, "seconds": round(time.perf_counter() - start, 1), "rows": found}


def _child(name: str, rows: Path, dry_run: bool) -> list[str]:
    command = [sys.executable, "-m", "visionssm.benchmarks.gpu.stages", name, str(rows)]
    return [*command, "--dry-run"] if dry_run else command


def _tests(out: Path, dry_run: bool) -> list[str]:
    """The hardware tests; in a dry run those of the smallest operator."""
    workers = min(12, os.cpu_count() or 1)
    command = [sys.executable, "-m", "pytest", "-v", "-ra", "--tb=short", "-p", "no:cacheprovider", CORRECTNESS]
    return (
        [*command, "-n0", "-k", "linear_recurrence and constant"]
        if dry_run
        else [*command, f"-n{workers}", "--dist=load"]
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip("= ") if lines else "no output"


def _machine(dry_run: bool) -> dict[str, Any]:
    import platform

    import torch
    import triton

    found = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if dry_run:
        return {"gpu": "none (dry run)", **found}
    driver = "unknown"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]
    return {"gpu": torch.cuda.get_device_name(), "driver": driver, **found}


def markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    lines = [", ".join(f"{name} {value}" for name, value in results["machine"].items()), ""]
    for name, stage in results["stages"].items():
        lines += [f"## {STAGES[name].title}", ""]
        if stage["ended"] != "complete":
            lines += [f"{name}: {stage['ended']}.", ""]
        if stage["rows"]:
            lines += [table(stage["rows"]), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one stage here and write one JSON line per row: what `run_all` starts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("stage", choices=[name for name, stage in STAGES.items() if stage.rows])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    rows = STAGES[options.stage].rows
    assert rows is not None
    with options.rows.open("w") as file:
        for row in rows(DRY_RUN if options.dry_run else ON_GPU):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
