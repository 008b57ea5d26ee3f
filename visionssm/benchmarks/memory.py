"""Memory that a call takes at most, as the system sees it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path


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


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
