"""Rows of pixels in compiled CPU kernels: depth-wise convolutions and layer norms of maps of any number of channels.

Lanes run over the numbers of a row, pixel after pixel, so that maps of eight channels fill sixteen lanes as well as
those of sixty-four do. The weights of a tap are repeated until they are whole vectors, a period.

A row lies in working memory between margins of zeros, as wide as the convolution reaches. Four periods are convolved at
a time, and the row is as long as whole ones: what is read and computed behind its last pixel is never used.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.math import LANES, inlined, load, multiply_add, put, scalar, spread, store, total

AT_ONCE = 4  # periods that share the weights of a tap

# mypy: disable-error-code="no-untyped-def"


@register_jitable
def period_of(channels: int) -> int:
    """Floats of the weights of one tap: the least common multiple of the channels and the lanes."""
    common = LANES
    while channels % common:
        common //= 2
    return channels * (LANES // common)


@register_jitable
def span_of(width: int, channels: int) -> int:
    """Floats that are computed of a row."""
    step = AT_ONCE * period_of(channels)
    return (width * channels + step - 1) // step * step


@register_jitable
def stride_of(width: int, channels: int, reach: int) -> int:
    """Floats of a row with its margins, `reach` pixels wide; the first pixel lies behind the first margin."""
    return span_of(width, channels) + 2 * reach * channels


@register_jitable
def table_of(side: int, channels: int) -> int:
    """Floats of the taps of side × side pixels and, behind them, of the biases."""
    return (side * side + 1) * period_of(channels)


@inlined
def fill_table(weights, biases, table, side, channels, kernel_side, first, step):
    """Write the taps and biases of (n, side', side') kernels into a zeroed table, for the channels first + i·step.

    A smaller kernel, of side' pixels, lies in the middle of the side × side taps.
    """
    period = period_of(channels)
    rim = (side - kernel_side) // 2
    for i in range((channels - first + step - 1) // step):
        for place in range(first + i * step, period, channels):
            for row in range(kernel_side):
                for column in range(kernel_side):
                    tap = (row + rim) * side + column + rim
                    put(table, tap * period + place, scalar(weights, (i * kernel_side + row) * kernel_side + column))
            put(table, side * side * period + place, scalar(biases, i))


@inlined
def convolve_row(rows, stride, table, side, width, channels, target):
    """Convolve the middle one of `side` rows, of `stride` floats each, from their first margins on."""
    period, span = period_of(channels), span_of(width, channels)
    for first in range(0, span, AT_ONCE * period):
        for phase in range(0, period, LANES):
            weight = table + phase * FLOAT
            a = load(weight, side * side * period)
            b, c, d = a, a, a
            for i in range(side):
                source = rows + (i * stride + first + phase) * FLOAT
                for _ in range(side):
                    tap = load(weight, 0)
                    a = multiply_add(tap, load(source, 0), a)
                    b = multiply_add(tap, load(source, period), b)
                    c = multiply_add(tap, load(source, 2 * period), c)
                    d = multiply_add(tap, load(source, 3 * period), d)
                    weight += period * FLOAT
                    source += channels * FLOAT
            store(target, first + phase, a)
            store(target, first + phase + period, b)
            store(target, first + phase + 2 * period, c)
            store(target, first + phase + 3 * period, d)


@inlined
def normalise_row(source, target, width, channels, parts, scale, shift, epsilon):
    """Layer norm of each pixel; of `parts` equal parts of its channels, channel i of part j goes to parts·i + j."""
    part = channels // parts
    whole = channels - channels % LANES
    for pixel in range(width):
        x, y = source + pixel * channels * FLOAT, target + pixel * channels * FLOAT
        mean = _sum(x, channels) / np.float32(channels)
        factor = np.float32(1) / np.sqrt(_squares(x, mean, channels) / np.float32(channels) + scalar(epsilon, 0))
        if parts == 1:
            for i in range(0, whole, LANES):
                centred = (load(x, i) - spread(mean)) * spread(factor)
                store(y, i, multiply_add(centred, load(scale, i), load(shift, i)))
            for i in range(whole, channels):
                put(y, i, (scalar(x, i) - mean) * factor * scalar(scale, i) + scalar(shift, i))
        else:
            for j in range(parts):
                for i in range(part):
                    k = j * part + i
                    put(y, i * parts + j, (scalar(x, k) - mean) * factor * scalar(scale, k) + scalar(shift, k))


@inlined
def _sum(x, channels):
    whole = channels - channels % LANES
    found = np.float32(0)
    if whole:
        lanes = load(x, 0)
        for i in range(LANES, whole, LANES):
            lanes = lanes + load(x, i)
        found = total(lanes)
    other = np.float32(0)
    for i in range(whole, channels - 1, 2):
        found += scalar(x, i)
        other += scalar(x, i + 1)
    if (channels - whole) % 2:
        found += scalar(x, channels - 1)
    return found + other


@inlined
def _squares(x, mean, channels):
    """Sum of the squared distances from the mean."""
    whole = channels - channels % LANES
    found = np.float32(0)
    if whole:
        lanes = spread(np.float32(0))
        for i in range(0, whole, LANES):
            centred = load(x, i) - spread(mean)
            lanes = multiply_add(centred, centred, lanes)
        found = total(lanes)
    other = np.float32(0)
    for i in range(whole, channels - 1, 2):
        found += (scalar(x, i) - mean) * (scalar(x, i) - mean)
        other += (scalar(x, i + 1) - mean) * (scalar(x, i + 1) - mean)
    if (channels - whole) % 2:
        found += (scalar(x, channels - 1) - mean) * (scalar(x, channels - 1) - mean)
    return found + other
