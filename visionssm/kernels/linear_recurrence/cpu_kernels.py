"""Compiled pass of the linear recurrence: a tile of neighbouring numbers walks through all steps.

A step reads its additions once, and the states of the step before from the first-level cache. Names: `x` is the byte
address of tensor x, `x_outer x_step x_inner` its strides in floats over outer, time and inner axes.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import kernel
from visionssm.kernels.cpu.math import (
    LANES,
    inlined,
    load,
    load_spread,
    multiply_add,
    put,
    scalar,
    spread,
    store,
    take_ticket,
)
from visionssm.kernels.linear_recurrence.cpu_pairs import imaginary_crossed, real_twice, swapped

TILE = 2048  # floats: the states, factors and additions of a step are half of a first-level cache

# mypy: disable-error-code="no-untyped-def"


@kernel
def recurrence(
    tasks, counter,
    n_steps, width, pairs, backwards, adjoint,
    a, a_outer, a_step, a_inner,
    b, state, out,
):  # fmt: skip
    """out_t = a_step out_{t−1} + b_t; b, out: (O, T, width) floats, which are complex numbers if `pairs`.

    `adjoint`: the factor of a step is the conjugate of the one at the step visited before it.
    """
    tiles = (width + TILE - 1) // TILE
    sign = np.float32(1)
    if adjoint:
        sign = np.float32(-1)
    direction = 1
    if backwards:
        direction = -1
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        outer, first = task // tiles, task % tiles * TILE
        count = min(TILE, width - first)
        t = 0
        if backwards:
            t = n_steps - 1
        for i in range(n_steps):
            place = ((outer * n_steps + t) * width + first) * FLOAT
            before = out + place - direction * width * FLOAT
            if i == 0:
                before = 0
                if state != 0:
                    before = state + (outer * width + first) * FLOAT
            used = t
            if adjoint:
                used = t - direction
            factors = a + (outer * a_outer + used * a_step + first * a_inner) * FLOAT
            if before == 0:
                _copy(b + place, out + place, count)
            elif pairs:
                _complex_row(factors, a_inner, sign, before, b + place, out + place, count)
            else:
                _real_row(factors, a_inner, before, b + place, out + place, count)
            t += direction


@inlined
def _copy(source, target, count):
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        store(target, i, load(source, i))
    for i in range(whole, count):
        put(target, i, scalar(source, i))


@inlined
def _real_row(a, a_inner, before, b, out, count):
    whole = count - count % LANES
    if a_inner == 0:
        factor = load_spread(a, 0)
        for i in range(0, whole, LANES):
            store(out, i, multiply_add(factor, load(before, i), load(b, i)))
    else:
        for i in range(0, whole, LANES):
            store(out, i, multiply_add(load(a, i), load(before, i), load(b, i)))
    for i in range(whole, count):
        put(out, i, scalar(a, i * a_inner) * scalar(before, i) + scalar(b, i))


@inlined
def _complex_row(a, a_inner, sign, before, b, out, count):
    whole = count - count % LANES
    signs = spread(sign)
    if a_inner == 0:
        real, cross = load_spread(a, 0), signs * imaginary_crossed(load_spread(a, 1))
        for i in range(0, whole, LANES):
            h = load(before, i)
            store(out, i, multiply_add(cross, swapped(h), multiply_add(real, h, load(b, i))))
    else:
        for i in range(0, whole, LANES):
            factor, h = load(a, i), load(before, i)
            cross = signs * imaginary_crossed(factor)
            store(out, i, multiply_add(cross, swapped(h), multiply_add(real_twice(factor), h, load(b, i))))
    for i in range(whole, count, 2):
        real, imaginary = scalar(a, i * a_inner), sign * scalar(a, i * a_inner + 1)
        h_real, h_imaginary = scalar(before, i), scalar(before, i + 1)
        put(out, i, real * h_real - imaginary * h_imaginary + scalar(b, i))
        put(out, i + 1, real * h_imaginary + imaginary * h_real + scalar(b, i + 1))
