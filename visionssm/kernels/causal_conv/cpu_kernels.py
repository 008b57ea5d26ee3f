"""Compiled passes of the causal convolution with SiLU, sixteen channels in the lanes.

A task is a block of one sequence's tokens. `side` is 1 where a token sees those before it and −1 where it sees those
after it: tap j of token t reads token t + side·(j − taps + 1), and a token has `before` others on the side it looks to.
Rows of x and of the gradient may lie apart (`x_batch x_token` are strides in elements), y and gx have no gaps.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, clear
from visionssm.kernels.cpu.kernel import kernel, kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    inlined,
    load,
    multiply_add,
    sigmoid,
    spread,
    store,
    take_ticket,
)

BLOCK = 64  # tokens of a task: their gradients before SiLU stay in a second-level cache

# mypy: disable-error-code="no-untyped-def"


def backward_memory(taps: int, channels: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {"gz": (BLOCK + taps - 1) * channels}


@kernel
def conv_forward(
    tasks, counter,
    tokens, channels, taps, side,
    weight, bias, x, x_batch, x_token, y,
):  # fmt: skip
    """y: (B, T, D); weight: (taps, D); bias: (D,)."""
    blocks = (tokens + BLOCK - 1) // BLOCK
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, first = task // blocks, task % blocks * BLOCK
        sequence = x + batch * x_batch * FLOAT
        for t in range(first, min(first + BLOCK, tokens)):
            before = t if side > 0 else tokens - 1 - t
            start = max(0, taps - 1 - before)
            target = y + (batch * tokens + t) * channels * FLOAT
            for lane in range(0, channels, LANES):
                z = _convolved(sequence, weight, bias, t, lane, start, taps, side, x_token, channels)
                store(target, lane, z * sigmoid(z))


@kernel_with(backward_memory, unset=["gz"])
def conv_backward(
    tasks, counter,
    gz,
    tokens, channels, taps, side,
    weight, bias, x, x_batch, x_token, gy, gy_batch, gy_token, gx, sums,
):  # fmt: skip
    """gx: (B, T, D); sums: (tasks, taps + 1, D), a task's part of the gradients of weight and, behind it, bias.

    `gz` is the gradient before SiLU of the block's tokens and of those that see them.
    """
    blocks = (tokens + BLOCK - 1) // BLOCK
    one = spread(np.float32(1))
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, first = task // blocks, task % blocks * BLOCK
        end = min(first + BLOCK, tokens)
        low = first if side > 0 else max(0, first - taps + 1)
        high = min(tokens, end + taps - 1) if side > 0 else end
        sequence = x + batch * x_batch * FLOAT
        parts = sums + task * (taps + 1) * channels * FLOAT
        clear(parts, (taps + 1) * channels)
        for t in range(low, high):
            before = t if side > 0 else tokens - 1 - t
            start = max(0, taps - 1 - before)
            arriving = gy + (batch * gy_batch + t * gy_token) * FLOAT
            target = gz + (t - low) * channels * FLOAT
            for lane in range(0, channels, LANES):
                z = _convolved(sequence, weight, bias, t, lane, start, taps, side, x_token, channels)
                s = sigmoid(z)
                g = load(arriving, lane) * s * multiply_add(z, one - s, one)
                store(target, lane, g)
                if first <= t and t < end:
                    for j in range(start, taps):
                        source = sequence + (t + side * (j - taps + 1)) * x_token * FLOAT
                        place = j * channels + lane
                        store(parts, place, multiply_add(load(source, lane), g, load(parts, place)))
                    place = taps * channels + lane
                    store(parts, place, load(parts, place) + g)
        for t in range(first, end):
            after = tokens - 1 - t if side > 0 else t
            start = max(0, taps - 1 - after)
            target = gx + (batch * tokens + t) * channels * FLOAT
            for lane in range(0, channels, LANES):
                g = spread(np.float32(0))
                for j in range(start, taps):
                    seen = gz + (t - side * (j - taps + 1) - low) * channels * FLOAT
                    g = multiply_add(load(weight, j * channels + lane), load(seen, lane), g)
                store(target, lane, g)


@inlined
def _convolved(sequence, weight, bias, t, lane, start, taps, side, x_token, channels):
    """Sixteen channels of token t before SiLU."""
    z = load(bias, lane)
    for j in range(start, taps):
        source = sequence + (t + side * (j - taps + 1)) * x_token * FLOAT
        z = multiply_add(load(weight, j * channels + lane), load(source, lane), z)
    return z
