"""Reading any image file into 8-bit RGB or grayscale, or saying clearly why that is impossible."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485
"""Largest image returned, Pillow's own threshold of suspicion (a quarter of a gigabyte as RGB)."""

MAX_DECODED_PIXELS = 1 << 29
"""Largest image decoded in order to be shrunk, 1.6 GB as RGB; JPEG files are decoded at an eighth of their size."""

_logger = logging.getLogger(__name__)
_pillow_limit = threading.Lock()


class UnreadableImageError(ValueError):
    """A file is missing, is no image, is damaged, or is too large to decode."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read image {str(path)!r}: {reason}")
        self.path = Path(path)
        self.reason = reason


def read_image(path: str | Path, mode: Literal["RGB", "L"] = "RGB", *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the first frame of an image file, upright, as 8-bit RGB or grayscale.

    - The EXIF orientation is applied.
    - Transparent pixels are laid over white, as a viewer shows them.
    - 16-bit grayscale is scaled by the full range of the type (65535 becomes 255), whatever range the image uses.
      Wider integers and floats have no natural range: floats within [0, 1] and integers within [0, 65535] are scaled by
      that range, all others from their own minimum and maximum; NaN and infinity count as 0.
    - An image of more than `max_pixels` is shrunk to that, with its aspect ratio.

    Args:
        path: file in any format that Pillow reads.
        mode: "RGB" or "L".
        max_pixels: most pixels of the result.
    Raises:
        UnreadableImageError: (a ValueError) the file is missing, no image, damaged, or larger than
            `MAX_DECODED_PIXELS` in a format that can only be decoded at full size.
        ValueError: `mode` or `max_pixels` is invalid.
    """
    if mode not in ("RGB", "L"):
        raise ValueError(f"mode must be 'RGB' or 'L', got {mode!r}")
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
    path = Path(path).expanduser()
    if not path.is_file():
        raise UnreadableImageError(path, "it is a folder" if path.is_dir() else "there is no such file")
    try:
        with _without_size_limit(), Image.open(path) as image:
            return _to_8_bit(_at_most(_upright(_decoded(image, max_pixels, path)), max_pixels), mode)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "it is not an image in a format that Pillow knows"
        raise UnreadableImageError(path, reason) from error
    except Exception as error:  # decoders of damaged data raise whatever comes: struct.error, SyntaxError, KeyError, …
        raise UnreadableImageError(path, f"it cannot be decoded ({type(error).__name__}: {error})") from error


@contextmanager
def _without_size_limit() -> Iterator[None]:
    """Open images of any size; Pillow's limit is one number for the whole process, hence the lock."""
    with _pillow_limit:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoded(image: Image.Image, max_pixels: int, path: Path) -> Image.Image:
    """Decode the pixels, at a fraction of the size where the format allows that (JPEG) and less is enough."""
    image.draft(None, _size_within(image, max_pixels))
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise UnreadableImageError(
            path,
            f"{image.width}×{image.height} pixels are more than the {MAX_DECODED_PIXELS:,} that are decoded; "
            "shrink it first",
        )
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are fine
        _logger.debug("ignoring a damaged EXIF block", exc_info=True)
    return image


def _at_most(image: Image.Image, max_pixels: int) -> Image.Image:
    if image.width * image.height <= max_pixels:
        return image
    if image.mode.startswith(("I", "F")):
        image = _scaled_to_8_bit(image)  # Pillow resamples not all of these modes
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # palette numbers must not be averaged
    elif image.mode == "1":
        image = image.convert("L")
    return image.resize(_size_within(image, max_pixels), Image.Resampling.BOX)


def _size_within(image: Image.Image, max_pixels: int) -> tuple[int, int]:
    """Width and height with about the image's aspect ratio and at most `max_pixels`."""
    width, height = image.size
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    short = max(1, int(min(width, height) * scale))
    long = min(int(max(width, height) * scale) if short > 1 else max_pixels, max(width, height), max_pixels // short)
    return (long, short) if width >= height else (short, long)


def _to_8_bit(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _scaled_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode) if image.mode != mode else image.copy()


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Wide integers and floats to grayscale (the rule is in `read_image`)."""
    values = np.asarray(image).astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    low, high = float(values.min()), float(values.max())
    natural = 1.0 if image.mode.startswith("F") else 65535.0
    if low >= 0 and high <= natural:
        low, high = 0.0, natural
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8), mode="L")
