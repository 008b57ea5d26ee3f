"""Runs of pytest in a copy of the repository, each in a fork of this process.

This process has imported what takes long to import, and computes nothing: threads, which PyTorch starts when it
computes, do not survive a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_IMPORTED = (
    "torch", "torchvision", "torch._dynamo", "timm", "numba", "numpy", "hypothesis", "PIL.Image", "safetensors.torch",
    "mmengine.runner", "cv2", "matplotlib.pyplot", "sklearn.datasets", "pycocotools.coco", "triton", "xdist.plugin",
    "pytest_timeout",
)  # fmt: skip
_OWN = ("visionssm", "tests", "tools", "configs")
_MEMORY = 24 << 30  # of addresses: a mutant must not take all that the machine has
NOTHING_TO_RUN = int(pytest.ExitCode.NO_TESTS_COLLECTED)


@dataclass(frozen=True)
class Ended:
    """How a run ended: pytest's exit status, that of a signal (negative), or None if its time was over."""

    status: int | None
    seconds: float
    failed: str
    """The test that failed, if one did."""

    @property
    def passed(self) -> bool:
        return self.status in (0, NOTHING_TO_RUN)

    def __str__(self) -> str:
        if self.status is None:
            return f"no end within {self.seconds:.0f} s"
        return self.failed or f"exit status {self.status}"


class Chosen:
    """A plugin that runs the tests of these names in this order, and writes down the first that fails."""

    def __init__(self, names: Sequence[str], report: Path) -> None:
        self.place = {name: index for index, name in enumerate(names)}
        self.report = report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.place]
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.place])
        items[:] = sorted(chosen, key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.report.write_text(json.dumps(report.nodeid), encoding="utf-8")


def prepare() -> None:
    """Import what the tests import of other packages, as far as it is installed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("MPLBACKEND", "agg")
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version"])  # imports pytest's own plugins


def run_tests(copy: Path, names: Sequence[str], seconds: float) -> Ended:
    """Run tests of these names, in their order, until one fails."""
    report = copy.parent / "failed.json"
    report.unlink(missing_ok=True)
    files = dict.fromkeys(name.partition("::")[0] for name in names)
    status, took = run(copy, ["-x", *files], Chosen(names, report), seconds)
    failed = json.loads(report.read_text(encoding="utf-8")) if report.exists() else ""
    return Ended(status, took, failed)


def run(copy: Path, arguments: Sequence[str], plugin: object, seconds: float) -> tuple[int | None, float]:
    """Run pytest with a plugin in a copy of the repository: its exit status, None if time was over, and seconds.

    What it prints is in `output.txt` beside the copy.
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _enter(copy)
            options = ["-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={copy.parent / 'temporary'}", *arguments]
            status = int(pytest.main(options, plugins=[plugin]))
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            status = int(pytest.ExitCode.INTERNAL_ERROR)
        finally:
            os._exit(status)
    while (took := time.monotonic() - begin) < seconds:
        done, how = os.waitpid(child, os.WNOHANG)
        if done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what tests have started
            return os.waitstatus_to_exitcode(how), took
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, took


def _enter(copy: Path) -> None:
    """Make a fork a process that was started in the copy."""
    os.setsid()
    os.chdir(copy)
    with open(copy.parent / "output.txt", "wb") as output, open(os.devnull, "rb") as nothing:
        for target, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), target)
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(x for x in sys.path if x and not (Path(x) / "visionssm").is_dir())]
    for name in list(sys.modules):
        if name.partition(".")[0] in _OWN:
            del sys.modules[name]
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, most))
