"""How many random cases a test runs, and what they did to the machine."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

_watched: list[str] | None = None
_hooked = False
_TELLING = ("open", "os.", "socket.", "subprocess.", "shutil.", "urllib.", "ctypes.", "exec", "import")


def cases(count: int) -> Iterator[tuple[int, random.Random]]:
    """Numbers of cases, and a source of random numbers for each: `count` of them, or as many as the time allows.

    VISIONSSM_FUZZ_SECONDS sets the time of a test, VISIONSSM_FUZZ_START the first number (so that two runs differ),
    VISIONSSM_FUZZ_CASE the only one.
    """
    if only := os.environ.get("VISIONSSM_FUZZ_CASE"):
        yield int(only), random.Random(int(only))
        return
    seconds = float(os.environ.get("VISIONSSM_FUZZ_SECONDS", "0"))
    start, end = int(os.environ.get("VISIONSSM_FUZZ_START", "0")), time.monotonic() + seconds
    number = start
    while number < start + count or time.monotonic() < end:
        yield number, random.Random(number)
        number += 1


@contextlib.contextmanager
def case(number: int) -> Iterator[None]:
    """Name the case in whatever fails."""
    start = time.process_time()
    try:
        yield
    except BaseException as error:
        error.add_note(f"run this case alone with VISIONSSM_FUZZ_CASE={number}")
        raise
    assert time.process_time() - start < 30, f"case {number} computed for more than 30 s; VISIONSSM_FUZZ_CASE={number}"


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Names of what the block asked of the system: files opened, programs started, modules imported, …"""
    global _watched, _hooked
    if not _hooked:
        sys.addaudithook(_note)  # for good: Python has no way to take it away
        _hooked = True
    _watched = noted = []
    try:
        yield noted
    finally:
        _watched = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event.startswith(_TELLING) and event != "os.listdir":
        _watched.append(f"{event} {' '.join(repr(x)[:200] for x in arguments[:3])}")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with bits flipped, bytes replaced, or parts cut out, doubled or moved."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 30))):
        place = draw.randrange(len(data)) if data else 0
        other = draw.randrange(len(data) + 1)
        low, high = min(place, other), max(place, other)
        high = min(high, low + draw.choice((1, 2, 8, 100, 10_000)))
        match draw.randrange(7):
            case 0 | 1:
                if data:
                    data[place] ^= 1 << draw.randrange(8)
            case 2:
                data[low:high] = draw.randbytes(high - low)
            case 3:
                del data[low:high]
            case 4:
                data[place:place] = data[low:high]
            case 5:
                data[low:high] = draw.choice(_NUMBERS)
            case _:
                data[place:place] = draw.randbytes(draw.choice((1, 2, 8)))
    return bytes(data)


_NUMBERS = [
    int(value).to_bytes(8, "little", signed=value < 0)[:width]
    for value in (0, -1, 1 << 31, (1 << 31) - 1, 1 << 62, 255, np.iinfo(np.int64).max)
    for width in (1, 2, 4, 8)
]
