"""Which tests execute which lines of the package, and how long they take.

Records are kept one file for each file of tests, and hold as long as neither that file nor a file of the package that
its tests execute has changed. Compiled kernels cannot be traced; `judge` looks for their tests by their folder. Tests
that compute for more than some seconds are left out.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.mutants import forks

Lines = dict[str, set[int]]
_SECONDS = 1800.0


@dataclass(frozen=True)
class Recorded:
    """A test that passes.

    Attributes:
        name: pytest's name of it.
        seconds: of computing that it took, its fixtures included.
        lines: the numbers of the lines that it executes, by the path of their file relative to the repository.
    """

    name: str
    seconds: float
    lines: Lines


class Recorder:
    """A plugin that writes down which lines each test executes, those of its fixtures of any scope included."""

    def __init__(self, copy: Path, target: Path, longest: float) -> None:
        self.prefix, self.target, self.longest = f"{copy}/visionssm/", target, longest
        self.tests: dict[str, dict[str, Any]] = {}
        self.seen: Lines = defaultdict(set)
        self.of_fixtures: dict[Any, Lines] = {}
        self._known: dict[str, str] = {}

    def pytest_sessionstart(self) -> None:
        signal.signal(signal.SIGPROF, _end)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in self._known:
            inside = name.startswith(self.prefix)
            self._known[name] = f"visionssm/{name.removeprefix(self.prefix)}" if inside else ""
        path = self._known[name]
        if not path:
            return None
        add = self.seen[path].add
        add(frame.f_lineno)

        def line(frame: FrameType, event: str, argument: object) -> Any:
            add(frame.f_lineno)
            return line

        return line

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.seen = defaultdict(set)
        self.tests[item.nodeid] = {"seconds": 0.0, "passed": False, "failed": False}
        begin = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, self.longest)
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            definitions = getattr(item, "_fixtureinfo", None)
            for fixtures in definitions.name2fixturedefs.values() if definitions else ():
                for fixture in fixtures:
                    _merge(self.of_fixtures.get(fixture, {}), self.seen)
            lines = {path: sorted(numbers) for path, numbers in self.seen.items()}
            self.tests[item.nodeid].update(seconds=time.process_time() - begin, lines=lines)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before, self.seen = self.seen, defaultdict(set)
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, self.longest)
            self.of_fixtures[fixturedef] = self.seen
            _merge(self.seen, before)
            self.seen = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests[report.nodeid]
        test["failed"] |= report.failed
        test["passed"] = (test["passed"] or (report.when == "call" and report.passed)) and not test["failed"]

    def pytest_sessionfinish(self) -> None:
        self.target.write_text(json.dumps(self.tests), encoding="utf-8")


def record(test: Path, copy: Path, folder: Path, longest: float = 60) -> list[Recorded]:
    """The tests of a file (relative to the repository) that pass, from their record in a folder or from a new run.

    Left out are tests that are marked slow, as in the default run, and those that compute for more than `longest`
    seconds, fixtures that they share with others not counted.
    """
    target = folder / f"{'.'.join(test.with_suffix('').parts)}.json"
    if target.exists():
        known = json.loads(target.read_text(encoding="utf-8"))
        if all(_digest(copy / path) == digest for path, digest in known["files"].items()):
            return [
                Recorded(x["name"], x["seconds"], {k: set(v) for k, v in x["lines"].items()}) for x in known["tests"]
            ]
    fresh = folder / "fresh.json"
    fresh.unlink(missing_ok=True)
    status, _ = forks.run(copy, [str(test)], Recorder(copy, fresh, longest), _SECONDS)
    tests = json.loads(fresh.read_text(encoding="utf-8")) if fresh.exists() else {}
    for name, known in [*tests.items()]:
        if not known["passed"]:
            del tests[name]
        if known["failed"]:
            print(f"  left out, since it fails or computes for more than {longest:.0f} s: {name}", flush=True)
    if not tests:
        print(f"  {test} has no test that passes (exit status {status})", flush=True)
    paths = sorted({str(test), *(path for x in tests.values() for path in x["lines"])})
    known = {
        "files": {path: _digest(copy / path) for path in paths},
        "tests": [{"name": name, "seconds": x["seconds"], "lines": x["lines"]} for name, x in tests.items()],
    }
    fresh.write_text(json.dumps(known), encoding="utf-8")
    fresh.rename(target)
    return record(test, copy, folder, longest)


class _TooLong(BaseException):
    """Ends a test."""


def _end(number: int, frame: FrameType | None) -> None:
    sys.settrace(None)
    raise _TooLong


def _merge(lines: Lines, into: Lines) -> None:
    for path, numbers in lines.items():
        into[path] |= numbers


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
