"""Which tests run, and in how many processes.

Heavy tests are marked `slow` and left out unless asked for, whole or a part at a time.
"""

from __future__ import annotations

import gc
import os
import sys
import zlib

import pytest

# Two test processes on two cores: threads of each on both cores would wait for one another most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption(
        "--slow-part",
        metavar="I/N",
        help="run part I (from 0) of N equal parts of the tests marked slow, and nothing else",
    )


@pytest.hookimpl(tryfirst=True, optionalhook=True)  # before the number of cores; where xdist is not, no hook
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `--numprocesses=auto` starts: two, but none for the tests of a single file.

    Each process imports PyTorch and the package anew, which takes longer than most files of tests.
    """
    files = {argument.split("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else 2


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the collector of reference cycles work, an eighth of the time where graphs are traced.

    And shorten the end of a run, which took longer than a small test.
    """
    gc.set_threshold(20_000, 10, 10)
    # What the imports made stays to the end: the collector, which pytest and some tests call, need not visit it.
    gc.freeze()
    # Its last words import Hypothesis, also where no test has used it.
    plugins = session.config.pluginmanager
    if "hypothesis" not in sys.modules and plugins.has_plugin("hypothesispytest"):
        plugins.unregister(name="hypothesispytest")


@pytest.hookimpl(trylast=True)  # after the fixtures of the file
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test of a file: what it imported stays too, and its cycles go."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--slow-part")
    if part:
        index, count = (int(x) for x in part.split("/"))
        chosen = [x for x in items if x.get_closest_marker("slow") and _part_of(x, count) == index]
    elif config.getoption("--slow") or config.option.markexpr:
        return
    else:
        chosen = [x for x in items if not x.get_closest_marker("slow")]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[x for x in items if x not in kept])
    items[:] = chosen


def _part_of(item: pytest.Item, count: int) -> int:
    """The same part on every machine and in every run."""
    return zlib.crc32(item.nodeid.encode()) % count
