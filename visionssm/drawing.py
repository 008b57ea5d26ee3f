"""Boxes, masks and pixel classes drawn over images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionssm.files import complete_or_absent

if TYPE_CHECKING:
    from torch import Tensor

GAP = 4
_SHOWN_SIDE = 288
_INK, _PAPER = (15, 23, 42), (255, 255, 255)


def pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture that is complete or absent."""
    with complete_or_absent(path) as temporary:
        picture.save(temporary)


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

    The first objects lie on top, and no name hides that of an earlier one as long as there is room at its box.

    Args:
        image: RGB of H×W pixels.
        boxes: (n, 4) left, top, right, bottom in its pixels.
        names: what is written at each box.
        colours: of each box.
        masks: (n, H, W) bool.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    if masks is not None:
        for mask, colour in reversed(list(zip(masks, colours, strict=True))):
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour)
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    drawn = drawn.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=max(9, round(min(drawn.size) / 26)))
    corners = [tuple(x * scale for x in box) for box in boxes.tolist()]
    for (left, top, right, bottom), colour in reversed(list(zip(corners, colours, strict=True))):
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=max(1, scale // 2))
    taken: list[_Place] = []
    for box, name, colour in zip(corners, names, colours, strict=True):
        if name:
            extent = pen.textbbox((0, 0), name, font=font)
            place = _free_place(box, (extent[2] + 2, extent[3] + 2), drawn.size, taken)
            taken.append(place)
            pen.rectangle(place, fill=colour)
            pen.text((place[0] + 1, place[1]), name, fill=_ink_on(colour), font=font)
    return drawn


_Place = tuple[float, float, float, float]


def _free_place(
    box: Sequence[float], size: tuple[float, float], canvas: tuple[int, int], taken: Sequence[_Place]
) -> _Place:
    """Where a name of this size stands at its box: above, inside its top or bottom, or below, wherever none stands."""
    width, height = size
    x = min(max(0, box[0]), max(0, canvas[0] - width))
    lowest = max(0, canvas[1] - height - 1)
    rows = [row for row in (box[1] - height, box[1], box[3] - height, box[3]) if 0 <= row <= lowest]
    places = [(x, row, x + width, row + height) for row in rows or [min(max(0, box[1]), lowest)]]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a: _Place, b: _Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return _PAPER if sum(colour) < 400 else _INK


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


def class_legend(classes: Sequence[str], numbers: np.ndarray) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of the classes that `draw_classes` tints, of all that occur in these numbers."""
    present = [int(number) for number in np.unique(numbers) if 0 < number < 255]
    return [(classes[n] if n < len(classes) else f"class {n}", class_colour(n - 1)) for n in present]


def with_legend(image: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """The image with names on their colours below it, in as many lines as they need."""
    font = ImageFont.load_default(size=max(10, min(14, round(image.width / 22))))
    pen = ImageDraw.Draw(image)
    line = round(font.getbbox("Ag")[3]) + 4
    places: list[tuple[float, int]] = []
    x, row = 2.0, 0
    for name, _ in entries:
        width = pen.textlength(name, font=font) + 8
        if x > 2 and x + width > image.width:
            x, row = 2.0, row + 1
        places.append((x, row))
        x += width + GAP
    taller = Image.new("RGB", (image.width, image.height + ((row + 1) * (line + 2) + 2 if entries else 0)), _PAPER)
    taller.paste(image, (0, 0))
    pen = ImageDraw.Draw(taller)
    for (name, colour), (left, row) in zip(entries, places, strict=True):
        top = image.height + 2 + row * (line + 2)
        pen.rectangle((left, top, left + pen.textlength(name, font=font) + 7, top + line), fill=colour)
        pen.text((left + 4, top + 1), name, fill=_ink_on(colour), font=font)
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
