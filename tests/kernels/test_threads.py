"""Sharing one function among threads."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.kernel import kernel
from visionssm.kernels.cpu.math import put, take_ticket


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_as_many_threads_as_torch_uses_work_together() -> None:
    together = threading.Barrier(3)
    workers: set[int] = set()

    def work() -> None:
        together.wait(timeout=240)
        workers.add(threading.get_ident())

    threads.run(work, tasks=8)
    assert len(workers) == 3
    assert threading.get_ident() in workers


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("n_threads", "tasks"), [(1, 8), (3, 1)])
def test_one_thread_or_one_task_stays_in_the_calling_thread(n_threads: int, tasks: int) -> None:
    torch.set_num_threads(n_threads)
    workers: list[int] = []
    threads.run(lambda: workers.append(threading.get_ident()), tasks)
    assert workers == [threading.get_ident()]


@pytest.mark.usefixtures("three_threads")
def test_run_returns_after_every_helper_that_began() -> None:
    for _ in range(50):
        tasks, done = itertools.count(), []

        def work(tasks: itertools.count[int] = tasks, done: list[int] = done) -> None:
            while (task := next(tasks)) < 6:
                time.sleep(0.0002)
                done.append(task)

        threads.run(work, 6)
        assert sorted(done) == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("three_threads")
def test_error_in_a_helper_is_raised_in_the_caller() -> None:
    caller, together = threading.get_ident(), threading.Barrier(3)

    def work() -> None:
        together.wait(timeout=240)
        if threading.get_ident() != caller:
            raise ValueError("a helper failed")

    with pytest.raises(ValueError, match="a helper failed"):
        threads.run(work, tasks=3)
    threads.run(together.reset, tasks=1)  # the helpers live on
    ran: list[int] = []
    threads.run(lambda: ran.append(1), tasks=3)
    assert ran


@pytest.mark.usefixtures("three_threads")
def test_a_function_that_is_shared_may_share_another() -> None:
    inner: list[int] = []
    threads.run(lambda: threads.run(lambda: inner.append(1), 3), 3)
    assert inner


@kernel
def _mark_tasks(tasks, counter, marks):  # type: ignore[no-untyped-def]
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        put(marks, task, np.float32(task + 1))


def _marks(tasks: int) -> list[float]:
    """What `_mark_tasks` leaves when it is shared out."""
    marks = torch.zeros(tasks)
    threads.run_kernel(_mark_tasks, tasks, marks=marks.data_ptr())
    return marks.tolist()


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("tasks", [1, 2, 500])
def test_kernel_does_every_task_once(tasks: int) -> None:
    assert _marks(tasks) == list(range(1, tasks + 1))


@pytest.mark.usefixtures("three_threads")
def test_kernel_runs_on_helper_threads_where_there_is_no_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(threads, "_openmp_team", lambda: None)
    monkeypatch.setattr(threads, "run", lambda function, tasks: used.append(tasks) or function())
    assert _marks(7) == list(range(1, 8))
    assert used == [7]


@pytest.mark.skipif(sys.platform != "linux", reason="torch runs on GNU OpenMP on Linux")
def test_team_is_that_of_torch() -> None:
    team = threads._openmp_team()
    assert team is not None
    assert Path(torch.__file__).parents[1] in _library_of(team).parents


def _library_of(function: Any) -> Path:
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if low <= address < high:
            return Path(line.split(maxsplit=5)[5])
    raise AssertionError(f"no mapped file at {address:#x}")


def _marks_in_child(pipe: Connection) -> None:
    pipe.send(_marks(50))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.usefixtures("three_threads")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kernel_runs_after_a_fork_of_a_process_that_has_used_the_team() -> None:
    assert _marks(50) == list(range(1, 51))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_marks_in_child, args=(theirs,))
    child.start()
    assert ours.poll(60), "the child hangs"
    assert ours.recv() == list(range(1, 51))
    child.join()


@pytest.mark.usefixtures("three_threads")
def test_python_threads_run_kernels_at_once() -> None:
    results: list[list[float]] = []
    callers = [threading.Thread(target=lambda: results.extend(_marks(300) for _ in range(20))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [list(range(1, 301))] * 80
