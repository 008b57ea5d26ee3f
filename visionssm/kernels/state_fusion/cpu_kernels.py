"""Compiled pass of the fusion of states: 27 taps of a pixel's surroundings, sixteen channels in the lanes.

oneDNN has no fast form of dilated depth-wise convolutions. As one dense kernel of 11×11 the three are 121 taps, four
times as many as there are.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import kernel
from visionssm.kernels.cpu.math import LANES, inlined, load, multiply_add, put, scalar, spread, store, take_ticket

SIDE = 3  # of a kernel; the dilations are 1, 3 and 5
N_DILATIONS = 3
QUAD = 4 * LANES  # channels that share the places of the taps

# mypy: disable-error-code="no-untyped-def"


@kernel
def fusion_forward(
    tasks, counter,
    height, width, channels,
    weights, h, y,
):  # fmt: skip
    """A row of an image is a task. h, y: (B, H, W, D); weights: (3, 9, D)."""
    pixel_size = channels * FLOAT
    quads = channels - channels % QUAD
    whole = channels - channels % LANES
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        row = task % height
        image = h + (task - row) * width * pixel_size
        for column in range(width):
            target = y + (task * width + column) * pixel_size
            for first in range(0, quads, QUAD):
                a, b = spread(np.float32(0)), spread(np.float32(0))
                c, d = spread(np.float32(0)), spread(np.float32(0))
                weight = weights + first * FLOAT
                for i in range(N_DILATIONS * SIDE):
                    line = _line(image, i, row, height, width, pixel_size) + first * FLOAT
                    for j in range(SIDE):
                        source = line + _column(i, j, column, width) * pixel_size
                        a = multiply_add(load(weight, 0), load(source, 0), a)
                        b = multiply_add(load(weight, LANES), load(source, LANES), b)
                        c = multiply_add(load(weight, 2 * LANES), load(source, 2 * LANES), c)
                        d = multiply_add(load(weight, 3 * LANES), load(source, 3 * LANES), d)
                        weight += pixel_size
                store(target, first, a)
                store(target, first + LANES, b)
                store(target, first + 2 * LANES, c)
                store(target, first + 3 * LANES, d)
            for first in range(quads, whole, LANES):
                a = spread(np.float32(0))
                weight = weights + first * FLOAT
                for i in range(N_DILATIONS * SIDE):
                    line = _line(image, i, row, height, width, pixel_size) + first * FLOAT
                    for j in range(SIDE):
                        source = line + _column(i, j, column, width) * pixel_size
                        a = multiply_add(load(weight, 0), load(source, 0), a)
                        weight += pixel_size
                store(target, first, a)
            for channel in range(whole, channels):
                one = np.float32(0)
                weight = weights
                for i in range(N_DILATIONS * SIDE):
                    line = _line(image, i, row, height, width, pixel_size)
                    for j in range(SIDE):
                        source = line + _column(i, j, column, width) * pixel_size
                        one += scalar(weight, channel) * scalar(source, channel)
                        weight += pixel_size
                put(target, channel, one)


@inlined
def _line(image, i, row, height, width, pixel_size):
    """Where the row of the taps begins: rows 0 to 2 are of dilation 1, 3 to 5 of 3, 6 to 8 of 5."""
    dilation = 2 * (i // SIDE) + 1
    return image + min(max(row + (i % SIDE - 1) * dilation, 0), height - 1) * width * pixel_size


@inlined
def _column(i, j, column, width):
    """The column of a tap, on the map."""
    dilation = 2 * (i // SIDE) + 1
    return min(max(column + (j - 1) * dilation, 0), width - 1)
