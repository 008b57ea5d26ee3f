"""Moving blocks of floats within compiled CPU kernels; addresses are those of `cpu.math`."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from visionssm.kernels.cpu.math import LANES, WORD, inlined, load, prefetch, put, scalar, spread, store, words

FLOAT = 4  # bytes

# mypy: disable-error-code="no-untyped-def"


@register_jitable
def padded(count: int) -> int:
    """Floats of a row that is made of whole vectors."""
    return (count + LANES - 1) // LANES * LANES


@inlined
def clear(address, count):
    """Write `count` zeros."""
    zero = np.float32(0)
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(address, i, spread(zero))
    for i in range(whole, count):
        put(address, i, zero)


@inlined
def clear_blocks(memory, table, count):
    """Write zeros to `count` blocks; `table` has the bytes from `memory` to each, then the floats of each."""
    for i in range(count):
        (place,) = words(table + i * WORD, 1)
        (floats,) = words(table + (count + i) * WORD, 1)
        clear(memory + place, floats)


@inlined
def copy(source, target, count):
    """Copy `count` floats."""
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(target, i, load(source, i))
    for i in range(whole, count):
        put(target, i, scalar(source, i))


@inlined
def fetch(address, count):
    """Have `count` floats brought into the caches for later; the address may be any."""
    for i in range(0, count, LANES):
        prefetch(address, i)


@inlined
def add(source, target, count):
    """Add `count` floats to others."""
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(target, i, load(target, i) + load(source, i))
    for i in range(whole, count):
        put(target, i, scalar(target, i) + scalar(source, i))


@inlined
def gather_transposed(source, target, count, d_state, tile, factor):
    """(count, N) in memory to (N, tile), times a factor."""
    for channel in range(count):
        for n in range(d_state):
            put(target, n * tile + channel, scalar(source, channel * d_state + n) * factor)


@inlined
def scatter_transposed(source, target, count, d_state, tile):
    """(N, tile) in working memory to (count, N)."""
    for channel in range(count):
        for n in range(d_state):
            put(target, channel * d_state + n, scalar(source, n * tile + channel))
