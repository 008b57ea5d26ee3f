"""Small matrices and normalised rows in compiled CPU kernels.

A matrix is `count` rows of `row` floats, whole vectors; floats past the `width` that a row really has are zeros.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.math import (
    LANES,
    load,
    load_spread,
    multiply_add,
    put,
    scalar,
    spread,
    store,
    total,
)

# mypy: disable-error-code="no-untyped-def"

# Compiled once, and called: put into its callers, so many products would take half a minute to compile.
called: Any = numba.njit(error_model="numpy")


@called
def add_product(left, down, along, right, target, count, depth, row):
    """target_i += Σ_n left[i·down + n·along] right_n; a transposed `left` has its strides exchanged."""
    whole = count - count % 4
    for block in range(0, row, LANES):
        for i in range(0, whole, 4):
            place = i * row + block
            y0, y1 = load(target, place), load(target, place + row)
            y2, y3 = load(target, place + 2 * row), load(target, place + 3 * row)
            for n in range(depth):
                x, other = i * down + n * along, load(right, n * row + block)
                y0 = multiply_add(load_spread(left, x), other, y0)
                y1 = multiply_add(load_spread(left, x + down), other, y1)
                y2 = multiply_add(load_spread(left, x + 2 * down), other, y2)
                y3 = multiply_add(load_spread(left, x + 3 * down), other, y3)
            store(target, place, y0)
            store(target, place + row, y1)
            store(target, place + 2 * row, y2)
            store(target, place + 3 * row, y3)
        for i in range(whole, count):
            y = load(target, i * row + block)
            for n in range(depth):
                y = multiply_add(load_spread(left, i * down + n * along), load(right, n * row + block), y)
            store(target, i * row + block, y)


@called
def repeat(source, target, count, row):
    """Write the same row `count` times."""
    for i in range(count):
        for p in range(0, row, LANES):
            store(target, i * row + p, load(source, p))


@called
def add_rows(source, target, count, row):
    """Add the sum of `count` rows to one."""
    for p in range(0, row, LANES):
        y = load(target, p)
        for i in range(count):
            y = y + load(source, i * row + p)
        store(target, p, y)


@called
def scale_rows(source, factors, step, factor, target, count, row):
    """target_i = factor·factors[i·step]·source_i."""
    for i in range(count):
        scale = spread(scalar(factors, i * step) * factor)
        for p in range(0, row, LANES):
            store(target, i * row + p, load(source, i * row + p) * scale)


@called
def transpose(source, target, count, width, row, target_row):
    """(count, width) to (width, count)."""
    for i in range(count):
        for n in range(width):
            put(target, n * target_row + i, scalar(source, i * row + n))


@called
def inner(x, y, row):
    """<x, y> of two rows."""
    sums = spread(np.float32(0))
    for p in range(0, row, LANES):
        sums = multiply_add(load(x, p), load(y, p), sums)
    return total(sums)


@called
def normalise(z, inverse, mask, eps, count, width, row):
    """Rows without their mean, over the root of their variance and eps, in their place; one over it in `inverse`."""
    for i in range(count):
        place = z + i * row * FLOAT
        sums = spread(np.float32(0))
        for p in range(0, row, LANES):
            sums = sums + load(place, p)
        mean = spread(total(sums) / np.float32(width))
        squares = spread(np.float32(0))
        for p in range(0, row, LANES):
            centred = (load(place, p) - mean) * load(mask, p)
            store(place, p, centred)
            squares = multiply_add(centred, centred, squares)
        scale = np.float32(1) / np.sqrt(total(squares) / np.float32(width) + eps)
        for p in range(0, row, LANES):
            store(place, p, load(place, p) * spread(scale))
        put(inverse, i, scale)


@called
def project(g, normalised, inverse, mask, target, width, row):
    """target = (g − mean(g) − normalised·mean(g·normalised))·inverse, of one row; returns mean(g·normalised).

    It is the gradient of what is normalised from that of the normalised row.
    """
    sums = spread(np.float32(0))
    products = spread(np.float32(0))
    for p in range(0, row, LANES):
        sums = sums + load(g, p)
        products = multiply_add(load(g, p), load(normalised, p), products)
    mean, along = total(sums) / np.float32(width), total(products) / np.float32(width)
    for p in range(0, row, LANES):
        rest = load(g, p) - spread(mean) - load(normalised, p) * spread(along)
        store(target, p, rest * spread(inverse) * load(mask, p))
    return along
