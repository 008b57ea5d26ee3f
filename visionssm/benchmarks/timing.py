"""Timing in turn: noise that drifts over seconds hits all candidates alike, and the ratio of medians stands."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def medians_in_turn(
    candidates: Mapping[str, Callable[[], object]], *, seconds: float, min_rounds: int = 3
) -> dict[str, float]:
    """Median seconds of each candidate: A B C A B C … after one untimed round, for about `seconds` in all.

    A candidate that alone takes longer than a fifth of the budget a call is timed in the first rounds only.
    """
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    while True:
        for name, run in candidates.items():
            spent = times[name]
            if len(spent) >= min_rounds and statistics.median(spent) > seconds / 5:
                continue
            began = time.perf_counter()
            run()
            spent.append(time.perf_counter() - began)
        rounds = max(len(spent) for spent in times.values())
        if rounds >= min_rounds and time.perf_counter() - start > seconds:
            return {name: statistics.median(spent) for name, spent in times.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows and the machine to a JSON file, by way of a temporary one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"machine": machine(), "rows": list(rows)}, indent=1) + "\n")
    temporary.replace(path)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns are the keys of the first row."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 10 else f"{value:.0f}"
    return str(value)


def progress(text: str) -> None:
    """A line on stderr, so that stdout holds the table alone."""
    print(text, file=sys.stderr, flush=True)
