"""Threads for compiled CPU kernels: run one function on several cores, safely from any thread and after a fork.

A kernel takes its work from a shared counter, so it may be run by one thread or by many, and a thread that wakes late
costs nothing: the caller never waits for a helper that has not begun.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch


class _Job:
    """One call of `run`: a function, the tickets that allow a helper to join, and where helpers say they are done."""

    def __init__(self, function: Callable[[], object], helpers: int) -> None:
        self.function = function
        self.tickets = [None] * helpers  # list.pop is atomic: each ticket is taken once
        self.finished: SimpleQueue[BaseException | None] = SimpleQueue()

    def take_ticket(self) -> bool:
        try:
            self.tickets.pop()
        except IndexError:
            return False
        return True

    def help(self) -> None:
        if not self.take_ticket():
            return
        error: BaseException | None = None
        try:
            self.function()
        except BaseException as raised:  # raised again in the calling thread
            error = raised
        self.finished.put(error)


class _Pool:
    """Helper threads of this process. Threads do not survive a fork, so a child starts with a new pool."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.size = 0

    def grow(self, size: int) -> None:
        with self.lock:
            while self.size < size:
                threading.Thread(target=self._work, name=f"visionssm-{self.size}", daemon=True).start()
                self.size += 1

    def _work(self) -> None:
        while True:
            self.jobs.get().help()


_pool = _Pool()


def _renew_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pool)


def run(function: Callable[[], object], tasks: int) -> None:
    """Call `function` in this thread and, at the same time, in up to min(tasks, torch.get_num_threads()) − 1 others.

    The function shares out its work itself, by a counter, and releases the interpreter lock. It must be correct for any
    number of concurrent calls, from one up. An error in any of them is raised here.
    """
    helpers = min(tasks, torch.get_num_threads()) - 1
    if helpers < 1:
        function()
        return
    pool = _pool
    if pool.size < helpers:
        pool.grow(helpers)
    job = _Job(function, helpers)
    for _ in range(helpers):
        pool.jobs.put(job)
    try:
        function()
    finally:
        running = helpers
        while job.take_ticket():  # the work is done: nobody else needs to begin
            running -= 1
        errors = [job.finished.get() for _ in range(running)]
    for error in errors:
        if error is not None:
            raise error
