"""Compiled passes of the deformable sum: a pixel and group at a time, with the channels of the group in the lanes.

The positions of the nine points are one vector. Of them a table is made in the first-level cache, in rows of sixteen
points, one row per corner: the number of the pixel there (−1 outside the map) and the weight. Names: `x` is the byte
address of tensor x, `x_batch x_row x_column x_group` its strides in floats over batch, rows, columns and groups.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    floor,
    inlined,
    integer,
    load,
    load_spread,
    multiply_add,
    put,
    scalar,
    spread,
    store,
    take_ticket,
    total,
)
from visionssm.kernels.cpu.sums import sums_of_rows
from visionssm.kernels.deformable_sum.cpu_points import (
    larger,
    load_points,
    moved_x,
    moved_y,
    smaller,
    store_pairs,
    store_pixels,
    store_points,
)
from visionssm.kernels.deformable_sum.reference import POINTS

CORNERS = 4  # left above, right above, left below, right below
TABLE = CORNERS * LANES

# mypy: disable-error-code="no-untyped-def"


@inlined
def _place(image, row, column, group, of_image, of_row, of_column, of_group):
    """Bytes from the start of a tensor to a group of a pixel, by the strides."""
    return (image * of_image + row * of_row + column * of_column + group * of_group) * FLOAT


def forward_memory() -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {"pixels": TABLE, "weights": TABLE}


@kernel_with(forward_memory)
def deformable_forward(
    tasks, counter,
    pixels, weights,
    height, width, groups, channels, scale,
    value,
    offset, offset_batch, offset_row, offset_column, offset_group,
    mask, mask_batch, mask_row, mask_column, mask_group,
    y,
):  # fmt: skip
    """A row of an image is a task. value, y: (B, H, W, G, D)."""
    length = scalar(scale, 0)
    pixel_size = groups * channels * FLOAT
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        image, row = task // height, task % height
        for column in range(width):
            for group in range(groups):
                points = offset + _place(
                    image, row, column, group, offset_batch, offset_row, offset_column, offset_group
                )
                factor = load_points(
                    mask + _place(image, row, column, group, mask_batch, mask_row, mask_column, mask_group)
                )
                x_share, y_share = _corners(points, length, column, row, width, height, pixels)
                _weigh(x_share, y_share, factor, weights)
                # 0, or NaN where a position or mask is not finite, also outside the map
                lost = total((x_share + y_share) * factor * spread(np.float32(0)))
                source = value + (image * height * width * groups + group) * channels * FLOAT
                target = y + ((task * width + column) * groups + group) * channels * FLOAT
                _sum_corners(pixels, weights, lost, source, target, pixel_size, channels)


@inlined
def _corners(points, length, column, row, width, height, pixels):
    """Table of the pixels around the positions; how far right of and below their first corners these are."""
    # Counted from the pixel, not from the corner of the map, where the last digits of a small distance would be lost.
    x, y = spread(length) * moved_x(points), spread(length) * moved_y(points)
    whole_x, whole_y = floor(x), floor(y)
    left, above = spread(np.float32(column)) + whole_x, spread(np.float32(row)) + whole_y
    one = spread(np.float32(1))
    right, below = left + one, above + one
    store_pixels(pixels, left, above, width, height)
    store_pixels(pixels + LANES * FLOAT, right, above, width, height)
    store_pixels(pixels + 2 * LANES * FLOAT, left, below, width, height)
    store_pixels(pixels + 3 * LANES * FLOAT, right, below, width, height)
    return x - whole_x, y - whole_y


@inlined
def _weigh(x_share, y_share, factor, weights):
    """Table of the bilinear weights of the corners times one factor per point."""
    one = spread(np.float32(1))
    above, below = factor * (one - y_share), factor * y_share
    store(weights, 0, above * (one - x_share))
    store(weights, LANES, above * x_share)
    store(weights, 2 * LANES, below * (one - x_share))
    store(weights, 3 * LANES, below * x_share)


@inlined
def _sum_corners(pixels, weights, lost, source, target, pixel_size, channels):
    """Σ weight · pixel over the corners of the points, of the channels from `source` on, and `lost`."""
    whole = channels - channels % LANES
    for first in range(0, whole, LANES):
        block = source + first * FLOAT
        a, b, c, d = spread(lost), spread(np.float32(0)), spread(np.float32(0)), spread(np.float32(0))
        for p in range(POINTS):  # one sum per corner, so that additions need not wait for each other
            a = _plus_pixel(a, pixels, weights, p, block, pixel_size)
            b = _plus_pixel(b, pixels, weights, LANES + p, block, pixel_size)
            c = _plus_pixel(c, pixels, weights, 2 * LANES + p, block, pixel_size)
            d = _plus_pixel(d, pixels, weights, 3 * LANES + p, block, pixel_size)
        store(target, first, (a + b) + (c + d))
    for channel in range(whole, channels):
        one = lost
        for corner in range(0, TABLE, LANES):
            for p in range(corner, corner + POINTS):
                pixel = integer(pixels, p)
                if pixel >= 0:
                    one += scalar(weights, p) * scalar(source + pixel * pixel_size, channel)
        put(target, channel, one)


@inlined
def _plus_pixel(total, pixels, weights, entry, block, pixel_size):
    pixel = integer(pixels, entry)
    if pixel >= 0:
        total = multiply_add(load_spread(weights, entry), load(block + pixel * pixel_size, 0), total)
    return total


def reach_memory() -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    return {"least_of_lanes": LANES, "largest_of_lanes": LANES}


@kernel_with(reach_memory)
def deformable_reach(
    tasks, counter,
    least_of_lanes, largest_of_lanes,
    height, width, groups, scale,
    offset, offset_batch, offset_row, offset_column, offset_group,
    reach,
):  # fmt: skip
    """The first and the last row above a position of each row, which is a task; NaN is left out. reach: (B, H, 2)."""
    length = scalar(scale, 0)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        image, row = task // height, task % height
        least, largest = spread(np.float32(np.inf)), spread(np.float32(-np.inf))
        for column in range(width):
            for group in range(groups):
                points = offset + _place(
                    image, row, column, group, offset_batch, offset_row, offset_column, offset_group
                )
                y = spread(np.float32(row)) + floor(spread(length) * moved_y(points))
                least, largest = smaller(y, least), larger(y, largest)
        store(least_of_lanes, 0, least)
        store(largest_of_lanes, 0, largest)
        low, high = scalar(least_of_lanes, 0), scalar(largest_of_lanes, 0)
        for p in range(1, POINTS):
            low, high = min(low, scalar(least_of_lanes, p)), max(high, scalar(largest_of_lanes, p))
        put(reach, 2 * task, low)
        put(reach, 2 * task + 1, high)


def backward_memory() -> dict[str, int]:
    """Floats of the blocks in which a thread works; `products` of the values at the corners with the gradient."""
    return {"pixels": TABLE, "weights": TABLE, "products": TABLE * LANES}


@kernel_with(backward_memory)
def deformable_backward(
    tasks, counter,
    pixels, weights, products,
    height, width, groups, channels, bands, scale,
    value,
    offset, offset_batch, offset_row, offset_column, offset_group,
    mask, mask_batch, mask_row, mask_column, mask_group,
    grad, reach,
    grad_value, grad_offset, grad_mask,
):  # fmt: skip
    """A band of rows of an image is a task. value, grad, grad_value: (B, H, W, G, D).

    A task writes the gradients of its band: of the offsets and masks at these rows, and of the values there, to which
    it adds what arrives from any row, in the order of the pixels: so the sums do not depend on the number of bands.
    """
    length = scalar(scale, 0)
    pixel_size = groups * channels * FLOAT
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        image, band = task // bands, task % bands
        first, end = band * height // bands, (band + 1) * height // bands
        for row in range(height):
            own = first <= row < end
            if not own:
                ends = 2 * (image * height + row)
                if scalar(reach, ends) >= end or scalar(reach, ends + 1) + 1 < first:
                    continue
            for column in range(width):
                for group in range(groups):
                    points = offset + _place(
                        image, row, column, group, offset_batch, offset_row, offset_column, offset_group
                    )
                    factor = load_points(
                        mask + _place(image, row, column, group, mask_batch, mask_row, mask_column, mask_group)
                    )
                    x_share, y_share = _corners(points, length, column, row, width, height, pixels)
                    _weigh(x_share, y_share, factor, weights)
                    place = ((image * height + row) * width + column) * groups + group
                    dy = grad + place * channels * FLOAT
                    of_image = (image * height * width * groups + group) * channels * FLOAT
                    _add_to_corners(
                        pixels, weights, first * width, end * width, dy, grad_value + of_image, pixel_size, channels
                    )
                    if own:
                        _multiply_corners(pixels, products, dy, value + of_image, pixel_size, channels)
                        _write_gradients(
                            x_share, y_share, factor, length, products,
                            grad_offset + place * 2 * POINTS * FLOAT, grad_mask + place * POINTS * FLOAT,
                        )  # fmt: skip


@inlined
def _write_gradients(x_share, y_share, factor, length, products, grad_offset, grad_mask):
    """Gradients of nine offsets and masks, from the products of the corners' values with the gradient."""
    one = spread(np.float32(1))
    left_above = sums_of_rows(products)
    right_above = sums_of_rows(products + LANES * LANES * FLOAT)
    left_below = sums_of_rows(products + 2 * LANES * LANES * FLOAT)
    right_below = sums_of_rows(products + 3 * LANES * LANES * FLOAT)
    above = (one - x_share) * left_above + x_share * right_above
    below = (one - x_share) * left_below + x_share * right_below
    left = (one - y_share) * left_above + y_share * left_below
    right = (one - y_share) * right_above + y_share * right_below
    store_points(grad_mask, (one - y_share) * above + y_share * below)
    slope = spread(length) * factor
    store_pairs(grad_offset, slope * (right - left), slope * (below - above))


@inlined
def _add_to_corners(pixels, weights, first, end, source, target, pixel_size, channels):
    """Add `source` times the weights to the pixels from `first` to before `end` among those at the corners."""
    whole = channels - channels % LANES
    for corner in range(0, TABLE, LANES):
        for p in range(corner, corner + POINTS):
            pixel = integer(pixels, p)
            if first <= pixel < end:
                place = target + pixel * pixel_size
                weight = load_spread(weights, p)
                for i in range(0, whole, LANES):
                    store(place, i, multiply_add(weight, load(source, i), load(place, i)))
                for i in range(whole, channels):
                    put(place, i, scalar(place, i) + scalar(weights, p) * scalar(source, i))


@inlined
def _multiply_corners(pixels, products, dy, source, pixel_size, channels):
    """Rows of sixteen floats whose sums are <dy, value> at every corner, 0 outside the map; sixteen rows per corner."""
    whole = channels - channels % LANES
    for corner in range(0, TABLE, LANES):
        for p in range(corner, corner + POINTS):
            pixel = integer(pixels, p)
            product = spread(np.float32(0))
            rest = np.float32(0)
            if pixel >= 0:
                place = source + pixel * pixel_size
                for i in range(0, whole, LANES):
                    product = multiply_add(load(dy, i), load(place, i), product)
                for i in range(whole, channels):
                    rest += scalar(dy, i) * scalar(place, i)
            store(products, p * LANES, product)
            if whole < channels:
                put(products, p * LANES, scalar(products, p * LANES) + rest)
