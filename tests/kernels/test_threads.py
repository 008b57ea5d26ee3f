"""Sharing one function among threads."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from visionssm.kernels import threads


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
        together.wait(timeout=30)
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
        together.wait(timeout=30)
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
