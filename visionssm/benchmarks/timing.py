"""Timing in turn: noise that drifts over seconds hits all candidates alike, and the ratio of medians stands."""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from visionssm.files import complete_or_absent

TURN = 0.02
STEP_BY_STEP = ("published layout",)
"""What networks with scans of the published layout are named in turn: they take minutes and have nothing to compile."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
"""What may measure a call: the time that passes, or what this process has of the processors' while others use them."""


def medians_in_turn(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    min_rounds: int = 3,
    turn: float = TURN,
    clock: Clock = time.perf_counter,
    once: Collection[str] = (),
) -> dict[str, float]:
    """Median seconds of each candidate: A B C A B C … for about `seconds` in all, after one round that does not count.

    A turn is the mean of as many calls as fit into `turn` seconds, so that fast candidates are not measured on the
    caches that slow ones leave. Of a candidate whose first call takes longer than half of `seconds`, the second call
    tells whether that is so because kernels were compiled: if it takes as long, it is the figure and the last one.

    Args:
        candidates: what is called, by name.
        seconds: for all candidates together.
        min_rounds: rounds of calls that count, at least.
        turn: seconds of a turn.
        clock: which time is measured.
        once: names of candidates that have nothing to compile, of which some may take minutes: where their first call
            takes longer than half of `seconds`, it is the figure.
    """
    first = {name: _time(run, clock) for name, run in candidates.items()}
    for name, run in candidates.items():
        if first[name] >= seconds / 2 and name not in once:
            first[name] = _time(run, clock)
    quick = {name: run for name, run in candidates.items() if first[name] < seconds / 2}
    times: dict[str, list[float]] = {name: [] for name in quick}
    start = clock()
    rounds = 0
    while quick and (rounds < min_rounds or clock() - start < seconds):
        for name, run in quick.items():
            times[name].append(_turn(run, turn, clock))
        rounds += 1
    return {name: statistics.median(times[name]) if name in times else first[name] for name in candidates}


def median(run: Callable[[], object], *, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Median seconds of a call, over about `seconds` of calls and at least one, after one that does not count."""
    run()
    times: list[float] = []
    start = clock()
    while not times or clock() - start < seconds:
        times.append(_time(run, clock))
    return statistics.median(times)


def _turn(run: Callable[[], object], seconds: float, clock: Clock) -> float:
    began, calls = clock(), 0
    while True:
        run()
        calls += 1
        elapsed = clock() - began
        if elapsed > seconds:
            return elapsed / calls


def _time(run: Callable[[], object], clock: Clock) -> float:
    began = clock()
    run()
    return clock() - began


def available_memory() -> int:
    """Bytes of memory that can be used without swapping; 8 GiB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


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


def read_rows(path: str | Path, *, of_this_machine: bool = True) -> list[dict[str, Any]]:
    """Rows that `write_json` wrote; none if there is no such file.

    Args:
        path: of the file.
        of_this_machine: refuse rows that cannot be gone on with here.

    Raises:
        ValueError: they are of another machine, or the file is not one of `write_json`'s.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        written = json.loads(path.read_text())
        rows, where = list(written["rows"]), dict(written["machine"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no rows of a benchmark: {error!r}") from error
    if of_this_machine and where != machine():
        raise ValueError(f"{path} was measured on another machine or setting ({where}), this is {machine()}")
    return rows


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows and the machine to a JSON file, by way of a temporary one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "rows": list(rows)}, indent=1) + "\n")


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


def ratio_row(figure: str, goal: str, values: Mapping[str, float], a: str, b: str, unit: str = "ms") -> dict[str, Any]:
    """The ratio of two that were measured in turn, in seconds unless `unit` says otherwise."""
    factor = 1e3 if unit == "ms" else 1.0
    ratio = values[a] / values[b] if values[b] else math.nan
    return {
        "figure": figure,
        "a": a,
        "b": b,
        "a value": values[a] * factor,
        "b value": values[b] * factor,
        "unit": unit,
        "a / b": ratio,
        "goal": goal,
    }


def merged(known: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Known rows with those in the place of which new ones were measured replaced, and the rest of these behind.

    Rows are those of `ratio_row`.
    """

    def what(row: Mapping[str, Any]) -> tuple[str, str, str]:
        return row["figure"], row["a"], row["b"]

    new = {what(row): row for row in measured}
    return [*(new.pop(what(row), row) for row in known), *new.values()]


def progress(text: str) -> None:
    """A line on stderr, so that stdout holds the table alone."""
    print(text, file=sys.stderr, flush=True)
