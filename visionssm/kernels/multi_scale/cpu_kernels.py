"""Compiled pass of the multi-scale convolutions: the parts are interleaved as they are normalised, and the convolutions
of all sides are one with the side of the largest.

Of maps with few channels a convolution of PyTorch costs a tenth to a quarter of a millisecond, however few its
operations are, and a block has five with their norms, sums and copies between.
"""

from __future__ import annotations

from visionssm.kernels.cpu.blocks import FLOAT, add, clear, copy
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import LANES, gelu, integer, load, store, take_ticket
from visionssm.kernels.cpu.pixel_rows import (
    convolve_row,
    fill_table,
    normalise_row,
    span_of,
    stride_of,
    table_of,
)

PLACE = 3  # side of the position's convolution

# mypy: disable-error-code="no-untyped-def"


def _memory(width: int, channels: int, band: int, reach: int) -> dict[str, int]:
    return {
        "given": (band + 2 * reach + 2) * stride_of(width, channels, 1),
        "inner": (band + 2 * reach) * stride_of(width, channels, reach),
        "sums": span_of(width, channels),
        "place": table_of(PLACE, channels),
        "taps": table_of(2 * reach + 1, channels),
    }


@kernel_with(_memory)
def multi_scale_forward(
    tasks, counter,
    height, width, channels, band, reach, parts,
    x, y, normed, sides, weights, biases, place_weight, place_bias, scale, shift, last_scale, last_shift, epsilons,
    given, inner, sums, place, taps,
):  # fmt: skip
    """A band of rows of an image is a task. x, y, normed: (B, H, W, C); weights: (C/n, side, side) of n sides.

    given: the rows of x that the band depends on. inner: those of the interleaved norm.
    """
    side = 2 * reach + 1
    if place_weight:
        fill_table(place_weight, place_bias, place, PLACE, channels, PLACE, 0, 1)
    weight, bias = weights, biases
    for part in range(parts):
        own = integer(sides, part)
        fill_table(weight, bias, taps, side, channels, own, part, parts)
        weight += channels // parts * own * own * FLOAT
        bias += channels // parts * FLOAT

    bands = (height + band - 1) // band
    row_floats = width * channels
    given_stride, inner_stride = stride_of(width, channels, 1), stride_of(width, channels, reach)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % bands * band
        count = min(band, height - first)
        image = task // bands * height
        for i in range(count + 2 * reach + 2):
            row, target = first - reach - 1 + i, given + (i * given_stride + channels) * FLOAT
            if 0 <= row < height:
                copy(x + (image + row) * row_floats * FLOAT, target, row_floats)
            else:
                clear(target, row_floats)
        for i in range(count + 2 * reach):
            row, target = first - reach + i, inner + (i * inner_stride + reach * channels) * FLOAT
            own_row = given + ((i + 1) * given_stride + channels) * FLOAT
            if row < 0 or row >= height:
                clear(target, row_floats)
            elif place_weight:
                convolve_row(given + i * given_stride * FLOAT, given_stride, place, PLACE, width, channels, sums)
                add(own_row, sums, row_floats)
                normalise_row(sums, target, width, channels, parts, scale, shift, epsilons)
            else:
                normalise_row(own_row, target, width, channels, parts, scale, shift, epsilons)
        for i in range(count):
            own_row = given + ((i + reach + 1) * given_stride + channels) * FLOAT
            convolve_row(inner + i * inner_stride * FLOAT, inner_stride, taps, side, width, channels, sums)
            for j in range(0, row_floats, LANES):
                store(sums, j, gelu(load(sums, j)) + load(own_row, j))
            place_of_row = (image + first + i) * row_floats * FLOAT
            copy(sums, y + place_of_row, row_floats)
            normalise_row(sums, normed + place_of_row, width, channels, 1, last_scale, last_shift, epsilons + FLOAT)
