"""Compiled pass of the local positions: sum, convolution and norm of a band of rows while they are in the cache."""

from __future__ import annotations

from visionssm.kernels.cpu.blocks import FLOAT, add, clear, copy
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import take_ticket
from visionssm.kernels.cpu.pixel_rows import (
    convolve_row,
    fill_table,
    normalise_row,
    span_of,
    stride_of,
    table_of,
)

SIDE = 3

# mypy: disable-error-code="no-untyped-def"


def _memory(width: int, channels: int, band: int) -> dict[str, int]:
    return {
        "given": (band + 2) * stride_of(width, channels, 1),
        "sums": span_of(width, channels),
        "taps": table_of(SIDE, channels),
    }


@kernel_with(_memory)
def position_norm_forward(
    tasks, counter,
    height, width, channels, band,
    x, update, y, normed, weight, bias, scale, shift, epsilon,
    given, sums, taps,
):  # fmt: skip
    """A band of rows of an image is a task. x, update, y, normed: (B, H, W, C); weight: (C, 3, 3)."""
    fill_table(weight, bias, taps, SIDE, channels, SIDE, 0, 1)
    bands = (height + band - 1) // band
    row_floats = width * channels
    stride = stride_of(width, channels, 1)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        first = task % bands * band
        count = min(band, height - first)
        image = task // bands * height
        for i in range(count + 2):
            row, target = first - 1 + i, given + (i * stride + channels) * FLOAT
            if 0 <= row < height:
                copy(x + (image + row) * row_floats * FLOAT, target, row_floats)
                add(update + (image + row) * row_floats * FLOAT, target, row_floats)
            else:
                clear(target, row_floats)
        for i in range(count):
            convolve_row(given + i * stride * FLOAT, stride, taps, SIDE, width, channels, sums)
            add(given + ((i + 1) * stride + channels) * FLOAT, sums, row_floats)
            place = (image + first + i) * row_floats * FLOAT
            copy(sums, y + place, row_floats)
            normalise_row(sums, normed + place, width, channels, 1, scale, shift, epsilon)
