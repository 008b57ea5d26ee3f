"""Threads for compiled CPU kernels: run one function on several cores, safely from any thread and after a fork.

A kernel takes its work from a shared counter, so it may be run by one thread or by many. Where torch's own operators
run on GNU OpenMP, kernels borrow its team: these threads are awake between two operators, and start within
microseconds. Elsewhere, and after a fork (which OpenMP's threads do not survive), helpers of this module do the work; a
helper that wakes late costs nothing, because the caller never waits for one that has not begun.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numba
import torch

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import Kernel


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
_forked = False


def _after_fork() -> None:
    global _forked, _pool
    _forked, _pool = True, _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # releases the interpreter lock


def run_kernel(kernel: Kernel, tasks: int, **arguments: int) -> None:
    """Run a compiled kernel on as many threads as it has tasks, at most torch.get_num_threads().

    Args:
        kernel: takes tasks from its counter until none is left; correct for any number of concurrent calls, from one
            up.
        tasks: how many there are to share out.
        arguments: of the kernel, by name. Whoever passes an address keeps its array alive.

    What a kernel has beside them: `counter` is the address of two zeroed int64, tasks taken and threads begun; its
    blocks are places in the working memory of the thread.

    Raises:
        TypeError: an argument is missing, or none of the kernel's.
    """
    if tasks == 0:
        return
    n_threads = torch.get_num_threads()
    given = kernel.ordered(arguments)
    places, zeroed, size = kernel.blocks(arguments)
    memory = _working_memory(n_threads * size // FLOAT)
    words = array("q", (tasks, 0, memory.data_ptr(), size, *given, *places, *zeroed, 0, 0))  # as Kernel.entry reads
    address, length = words.buffer_info()
    words[1] = address + (length - 2) * words.itemsize  # the counter lies behind the arguments
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # a debugger steps through it; see `stepping`
        kernel.entry()(address)
    elif tasks > 1 and n_threads > 1 and not _forked and (team := _openmp_team()) is not None:
        # Always all of torch's threads, also for fewer tasks: OpenMP ends threads that a smaller team leaves over.
        team(kernel.address, address, n_threads, 0)
    else:
        function = _Callback(kernel.address)
        run(lambda: function(address), tasks)


_kept = threading.local()
_MOST_KEPT = 16 << 20  # floats


def _working_memory(floats: int) -> torch.Tensor:
    """Memory for a kernel, the same at the next call from this thread: new pages cost more than small kernels do."""
    memory: torch.Tensor | None = getattr(_kept, "memory", None)
    if memory is None or memory.numel() < floats:
        memory = torch.empty(floats, dtype=torch.float32, device="cpu")
        if floats <= _MOST_KEPT:
            _kept.memory = memory
    return memory


@functools.cache
def _openmp_team() -> Callable[[int, int, int, int], None] | None:
    """GOMP_parallel(function, data, number of threads, flags) of the library that runs torch's operators, if any."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps if "/libgomp" in line}
    home = Path(torch.__file__).resolve().parents[1]
    for path in sorted(mapped, key=lambda path: home not in path.parents):  # other packages may bring theirs
        try:
            team = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        team.restype = None
        return team  # type: ignore[no-any-return]
    return None


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
