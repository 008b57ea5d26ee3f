"""Compiled passes of the instance norm with leaky ReLU, sixteen channels in the lanes.

A task is a block of one image's tokens. mean, scale (weight over the standard deviation), level and slant are (B, C),
bias is (C,), `slope` one number; maps are (B, T, C) without gaps.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import kernel
from visionssm.kernels.cpu.math import LANES, leaky, load, load_spread, multiply_add, spread, store, take_ticket

BLOCK = 128  # tokens of a task, which stay in a second-level cache between two looks at them

# mypy: disable-error-code="no-untyped-def"


@kernel
def block_moments(tasks, counter, tokens, channels, x, means, squares):
    """means, squares: (tasks, C), the mean of the block and the sum of squared distances to it."""
    blocks = (tokens + BLOCK - 1) // BLOCK
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % blocks * BLOCK
        count = min(BLOCK, tokens - first)
        source = x + (task // blocks * tokens + first) * channels * FLOAT
        share = spread(np.float32(1.0 / count))
        for lane in range(0, channels, LANES):
            mean = spread(np.float32(0))
            for t in range(count):
                mean = mean + load(source, t * channels + lane)
            mean = mean * share
            square = spread(np.float32(0))
            for t in range(count):
                away = load(source, t * channels + lane) - mean
                square = multiply_add(away, away, square)
            store(means, task * channels + lane, mean)
            store(squares, task * channels + lane, square)


@kernel
def norm_forward(tasks, counter, tokens, channels, x, mean, scale, bias, added, slope, y):
    """`added` is 0 where nothing is."""
    blocks = (tokens + BLOCK - 1) // BLOCK
    negative = load_spread(slope, 0)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % blocks * BLOCK
        image = task // blocks
        place = (image * tokens + first) * channels * FLOAT
        for lane in range(0, channels, LANES):
            centre = load(mean, image * channels + lane)
            factor = load(scale, image * channels + lane)
            shift = load(bias, lane)
            for i in range(lane, min(BLOCK, tokens - first) * channels, channels):
                z = multiply_add(load(x + place, i) - centre, factor, shift)
                if added != 0:
                    z = z + load(added + place, i)
                store(y + place, i, leaky(z, z, negative))


@kernel
def norm_backward_sums(tasks, counter, tokens, channels, x, mean, scale, bias, slope, gy, y, gadded, sums):
    """sums: (tasks, 2, C) of the gradient before the leaky ReLU, and of its product with x − mean.

    Where something was added, that gradient is written to `gadded`, and the result `y` tells the signs.
    """
    blocks = (tokens + BLOCK - 1) // BLOCK
    negative = load_spread(slope, 0)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % blocks * BLOCK
        image = task // blocks
        place = (image * tokens + first) * channels * FLOAT
        for lane in range(0, channels, LANES):
            centre = load(mean, image * channels + lane)
            factor = load(scale, image * channels + lane)
            shift = load(bias, lane)
            even = spread(np.float32(0))
            slanted = spread(np.float32(0))
            for i in range(lane, min(BLOCK, tokens - first) * channels, channels):
                away = load(x + place, i) - centre
                if y != 0:
                    g = leaky(load(y + place, i), load(gy + place, i), negative)
                    store(gadded + place, i, g)
                else:
                    g = leaky(multiply_add(away, factor, shift), load(gy + place, i), negative)
                even = even + g
                slanted = multiply_add(away, g, slanted)
            store(sums, 2 * task * channels + lane, even)
            store(sums, (2 * task + 1) * channels + lane, slanted)


@kernel
def norm_backward(tasks, counter, tokens, channels, x, mean, scale, bias, slope, gy, masked, level, slant, gx):
    """gx; `masked` tells that gy is the gradient before the leaky ReLU already."""
    blocks = (tokens + BLOCK - 1) // BLOCK
    negative = load_spread(slope, 0)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % blocks * BLOCK
        image = task // blocks
        place = (image * tokens + first) * channels * FLOAT
        for lane in range(0, channels, LANES):
            centre = load(mean, image * channels + lane)
            factor = load(scale, image * channels + lane)
            shift = load(bias, lane)
            even = load(level, image * channels + lane)
            tilt = load(slant, image * channels + lane)
            for i in range(lane, min(BLOCK, tokens - first) * channels, channels):
                away = load(x + place, i) - centre
                g = load(gy + place, i)
                if masked == 0:
                    g = leaky(multiply_add(away, factor, shift), g, negative)
                store(gx + place, i, factor * (g - even - away * tilt))
