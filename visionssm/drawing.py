"""Boxes, masks and pixel classes drawn over images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4
_SHOWN_SIDE = 288
_INK, _PAPER = (15, 23, 42), (255, 255, 255)


def class_colour(number: int) -> tuple[int, int, int]:
    """A colour for class `number` (from 0) that differs much from its neighbours'."""
    hue = (0.08 + number * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def shown_scale(image: Image.Image) -> int:
    """How many times a small image is enlarged to be looked at."""
    return max(1, round(_SHOWN_SIDE / max(image.size)))


def draw_objects(
    image: Image.Image,
    boxes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    masks: np.ndarray | None = None,
    *,
    scale: int = 1,
) -> Image.Image:
    """The image enlarged, with boxes, their names and, half transparent, their masks.

    Args:
        image: RGB of H×W pixels.
        boxes: (n, 4) left, top, right, bottom in its pixels.
        names: what is written at each box.
        colours: of each box.
        masks: (n, H, W) bool.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    for mask, colour in zip(masks if masks is not None else (), colours, strict=False):
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour)
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    drawn = drawn.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=max(9, round(min(drawn.size) / 26)))
    for box, name, colour in zip(boxes.tolist(), names, colours, strict=True):
        left, top, right, bottom = (x * scale for x in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=max(1, scale // 2))
        if name:
            extent = pen.textbbox((0, 0), name, font=font)
            x = min(max(0, left), max(0, drawn.width - extent[2] - 2))
            y = top - extent[3] - 2 if top > extent[3] + 2 else top
            pen.rectangle((x, y, x + extent[2] + 2, y + extent[3] + 2), fill=colour)
            pen.text((x + 1, y), name, fill=_PAPER if sum(colour) < 400 else _INK, font=font)
    return drawn


def draw_classes(image: Image.Image, numbers: np.ndarray, *, scale: int = 1) -> Image.Image:
    """The image enlarged, with every pixel tinted by its class; class 0 and the numbers from 255 on stay as they are.

    Args:
        image: RGB of H×W pixels.
        numbers: (H, W) class numbers.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    for number in np.unique(numbers):
        if 0 < number < 255:
            chosen = numbers == number
            pixels[chosen] = 0.35 * pixels[chosen] + 0.65 * np.array(class_colour(int(number) - 1))
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    return drawn.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def with_title(image: Image.Image, title: str) -> Image.Image:
    """The image with a line of text above it."""
    size = max(10, round(image.width / 26))
    taller = Image.new("RGB", (image.width, image.height + size + 6), _PAPER)
    taller.paste(image, (0, size + 6))
    ImageDraw.Draw(taller).text((2, 1), title, fill=_INK, font=ImageFont.load_default(size=size))
    return taller


def beside(images: Sequence[Image.Image]) -> Image.Image:
    """Images in a row."""
    width, height = sum(x.width for x in images) + GAP * (len(images) - 1), max(x.height for x in images)
    row = Image.new("RGB", (width, height), _PAPER)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + GAP
    return row


def below(images: Sequence[Image.Image]) -> Image.Image:
    """Images in a column."""
    width, height = max(x.width for x in images), sum(x.height for x in images) + GAP * (len(images) - 1)
    column = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for image in images:
        column.paste(image, (0, top))
        top += image.height + GAP
    return column
