# Triton types the parameters of kernels at launch, and annotations mean compile-time constants there.
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the deformable sum: a program takes a block of pixels of one group, with all its channels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pixels(n_pixels, height, width, groups, BLOCK: tl.constexpr, NUMBER: tl.constexpr):
    """A program's pixels: their numbers in all images, whether they exist, and image, row and column, 64-bit.

    They are counted in NUMBER, 64-bit only where there are so many: GPUs divide such numbers by long routines.
    """
    number = (tl.program_id(0) // groups).to(NUMBER) * BLOCK + tl.arange(0, BLOCK)
    image, within = number // (height * width), number % (height * width)
    row, column = within // width, within % width
    return number.to(tl.int64), number < n_pixels, image.to(tl.int64), row.to(tl.int64), column.to(tl.int64)


@triton.jit
def _block(tensor, batch_stride, row_stride, column_stride, group_stride, image, row, column, group):
    """Where the numbers of each pixel's group begin."""
    return tensor + image * batch_stride + row * row_stride + column * column_stride + group * group_stride


@triton.jit
def _position(offset, row, column, p, exists, SCALE: tl.constexpr):
    """Whole x and y left of and above point `p` of each pixel, and how far the point is from there."""
    # Counted from the pixel, not from the corner of the map, where the last digits of a small distance would be lost.
    x = SCALE * (p // 3 - 1 + tl.load(offset + 2 * p, mask=exists, other=0.0).to(tl.float32))
    y = SCALE * (p % 3 - 1 + tl.load(offset + 2 * p + 1, mask=exists, other=0.0).to(tl.float32))
    whole_x, whole_y = tl.floor(x), tl.floor(y)
    return column + whole_x, row + whole_y, x - whole_x, y - whole_y


@triton.jit
def _corner(x, y, width, height, exists):
    """Number of the pixel at whole x and y, and whether there is one."""
    inside = exists & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixel = tl.where(inside, y, 0.0).to(tl.int32) * width + tl.where(inside, x, 0.0).to(tl.int32)
    return pixel.to(tl.int64), inside


@triton.jit
def _read(channels, pixel, inside, pixel_stride):
    """(pixels, channels) in float32, 0 where there is no pixel. channels: (address, whether it exists)."""
    place = channels[0] + pixel[:, None] * pixel_stride
    return tl.load(place, mask=inside[:, None] & channels[1][None, :], other=0.0).to(tl.float32)


@triton.jit
def deformable_forward(
    value, offset, mask, y,
    offset_b, offset_h, offset_w, offset_g, mask_b, mask_h, mask_w, mask_g,
    n_pixels, height, width, groups,
    D: tl.constexpr, SCALE: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    NUMBER: tl.constexpr,
):  # fmt: skip
    """value, y: (B, H, W, G, D) without gaps; `n_pixels` of all images."""
    group = (tl.program_id(0) % groups).to(tl.int64)
    number, exists, image, row, column = _pixels(n_pixels, height, width, groups, BLOCK, NUMBER)
    offset = _block(offset, offset_b, offset_h, offset_w, offset_g, image, row, column, group)
    mask = _block(mask, mask_b, mask_h, mask_w, mask_g, image, row, column, group)
    first_pixel = image * height * width
    for first in tl.range(0, D, BLOCK_D, num_stages=1):
        channel = first + tl.arange(0, BLOCK_D)
        channels = (value + group * D + channel[None, :], channel < D)
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for p in tl.range(0, POINTS, num_stages=1):
            left, above, x_share, y_share = _position(offset, row, column, p, exists, SCALE)
            factor = tl.load(mask + p, mask=exists, other=0.0).to(tl.float32)
            for below in tl.static_range(2):
                for right in tl.static_range(2):
                    pixel, inside = _corner(left + right, above + below, width, height, exists)
                    weight = factor * (x_share if right else 1 - x_share) * (y_share if below else 1 - y_share)
                    total += weight[:, None] * _read(channels, first_pixel + pixel, inside, groups * D)
        place = y + (number[:, None] * groups + group) * D + channel[None, :]
        tl.store(place, total, mask=exists[:, None] & (channel < D)[None, :])


@triton.jit
def deformable_backward(
    grad_y, value, offset, mask, grad_value, grad_offset, grad_mask,
    offset_b, offset_h, offset_w, offset_g, mask_b, mask_h, mask_w, mask_g,
    n_pixels, height, width, groups,
    D: tl.constexpr, SCALE: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    NUMBER: tl.constexpr,
):  # fmt: skip
    """Add to grad_value, float32 or None, what comes from each sample; gradients are without gaps, like value."""
    group = (tl.program_id(0) % groups).to(tl.int64)
    number, exists, image, row, column = _pixels(n_pixels, height, width, groups, BLOCK, NUMBER)
    offset = _block(offset, offset_b, offset_h, offset_w, offset_g, image, row, column, group)
    mask = _block(mask, mask_b, mask_h, mask_w, mask_g, image, row, column, group)
    first_pixel = image * height * width
    for p in tl.range(0, POINTS, num_stages=1):
        left, above, x_share, y_share = _position(offset, row, column, p, exists, SCALE)
        factor = tl.load(mask + p, mask=exists, other=0.0).to(tl.float32)
        to_mask = tl.zeros([BLOCK], tl.float32)
        to_x = tl.zeros([BLOCK], tl.float32)
        to_y = tl.zeros([BLOCK], tl.float32)
        for first in tl.range(0, D, BLOCK_D, num_stages=1):
            channel = first + tl.arange(0, BLOCK_D)
            place = group * D + channel[None, :]
            dy = _read((grad_y + place, channel < D), number, exists, groups * D)
            for below in tl.static_range(2):
                for right in tl.static_range(2):
                    pixel, inside = _corner(left + right, above + below, width, height, exists)
                    pixel += first_pixel
                    across = x_share if right else 1 - x_share
                    along = y_share if below else 1 - y_share
                    met = tl.sum(dy * _read((value + place, channel < D), pixel, inside, groups * D), 1)
                    to_mask += across * along * met
                    to_x += along * met if right else -along * met
                    to_y += across * met if below else -across * met
                    if grad_value is not None:
                        target = grad_value + place + pixel[:, None] * (groups * D)
                        on_map = inside[:, None] & (channel < D)[None, :]
                        tl.atomic_add(target, (factor * across * along)[:, None] * dy, mask=on_map, sem="relaxed")
        point = (number * groups + group) * POINTS + p
        tl.store(grad_mask + point, to_mask, mask=exists)
        tl.store(grad_offset + 2 * point, SCALE * factor * to_x, mask=exists)
        tl.store(grad_offset + 2 * point + 1, SCALE * factor * to_y, mask=exists)
