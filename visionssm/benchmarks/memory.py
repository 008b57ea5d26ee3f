"""Memory that a call takes at most, as the system sees it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch


def growth(run: Callable[[], object]) -> float | None:
    """Bytes by which this process grows at most during a call; warm up before it what allocates once.

    None where the system does not tell (it is Linux that can start its high-water mark anew).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what earlier calls freed must grow again to be seen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew, see proc(5)
    before = _status("VmRSS")
    run()
    return float(_status("VmHWM") - before)


def fresh_growth(make: Callable[[], Callable[[], object]]) -> float:
    """Bytes by which a fresh process, with as many threads, grows at most during a call; 0 where not known.

    Args:
        make: run in that process, which it warms up; gives the call.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_growth_of, make, torch.get_num_threads()).result()


def _growth_of(make: Callable[[], Callable[[], object]], threads: int) -> float:
    torch.set_num_threads(threads)
    return growth(make()) or 0.0


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
