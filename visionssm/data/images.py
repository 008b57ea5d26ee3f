"""Reading any image file into 8-bit RGB or grayscale, or saying clearly why that is impossible.

Everything that reads images (data sets of every task, prediction, mmcv's pipelines) does it by these functions, so that
a model is tested and used on the pixels that it was trained on.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import regular_file

Mode = Literal["RGB", "L"]

MAX_PIXELS = 89_478_485
"""Largest image returned, Pillow's own threshold of suspicion (a quarter of a gigabyte as RGB)."""

MAX_DECODED_PIXELS = 1 << 29
"""Largest image decoded in order to be shrunk, 1.6 GB as RGB; JPEG files are decoded at an eighth of their size."""

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
"""Names of files that data sets take for images end in one of these, whatever the case."""

_logger = logging.getLogger(__name__)
_pillow_limit = threading.Lock()


class UnreadableImageError(UnreadableFileError):
    """A file is missing, is no image, is damaged, or is too large to decode."""

    def __str__(self) -> str:
        return f"cannot read image {str(self.path)!r}: {self.reason}"


def read_image(
    source: str | Path | IO[bytes], mode: Mode = "RGB", *, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Read the first frame of an image file, upright, as 8-bit RGB or grayscale.

    - The EXIF orientation is applied.
    - Transparent pixels are laid over white, as a viewer shows them.
    - 16-bit grayscale is scaled by the full range of the type (65535 becomes 255), whatever range the image uses.
      Wider integers and floats have no natural range: floats within [0, 1] and integers within [0, 65535] are scaled by
      that range, all others from their own minimum and maximum; NaN and infinity count as 0.
    - An image of more than `max_pixels` is shrunk to that, with its aspect ratio.

    Args:
        source: path of a file in any format that Pillow reads, or the open file.
        mode: "RGB" or "L".
        max_pixels: most pixels of the result.
        upright: apply the EXIF orientation; without, the pixels come as they are stored. (TIFF files are always
            upright: there the orientation is part of the format.)
    Raises:
        UnreadableImageError: (a ValueError) the file is missing, no image, damaged, or larger than
            `MAX_DECODED_PIXELS` in a format that can only be decoded at full size.
        ValueError: `mode` or `max_pixels` is invalid.
    """
    _check_mode(mode)
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
    with opened_image(source) as (image, path):
        _decode(image, max_pixels, path)
        return _to_8_bit(_at_most(upright_image(image) if upright else image, max_pixels), mode)


def to_8_bit(image: Image.Image, mode: Mode = "RGB") -> Image.Image:
    """An image that something else has opened, upright and converted as `read_image` does it.

    Raises:
        ValueError: `mode` is invalid.
    """
    _check_mode(mode)
    return _to_8_bit(upright_image(image.copy()), mode)


def as_array(image: Image.Image) -> np.ndarray:
    """(3, H, W) float32 in [0, 1] of an image, as networks take it."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_numbers(path: str | Path) -> np.ndarray:
    """Pixels of an image file as they are in it: of palette images the indices, not the colours; never turned.

    Raises:
        UnreadableImageError: (a ValueError) as `read_image`.
    """
    with opened_image(path) as (image, path):
        _decode(image, MAX_DECODED_PIXELS, path)
        return np.asarray(image)


@dataclass(frozen=True)
class ImageHeader:
    """What a file tells of its image.

    Attributes:
        stored: (width, height) of the pixels as they are in the file.
        upright: (width, height) with the EXIF orientation applied.
        turned: the EXIF orientation turns or mirrors the image.
        mode: Pillow's name for what a pixel is in the file.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    turned: bool
    mode: str


def inspect_images(paths: Sequence[str | Path]) -> list[ImageHeader | UnreadableImageError]:
    """Look at image files, mostly without decoding them: whole JPEG and PNG files show by their last bytes.

    All other files, and those that end too early, are decoded to see whether that is possible. Damage within a whole
    JPEG or PNG file is not seen.

    Returns:
        for every path its header, or why it cannot be read.
    """
    with _without_size_limit(), ThreadPoolExecutor(max_workers=8) as pool:  # waiting for storage, and decoders, overlap
        return list(pool.map(_header, paths))


def _header(source: str | Path) -> ImageHeader | UnreadableImageError:
    try:
        path = _image_file(source)
        with _reasons(path), open(path, "rb") as file:
            tail = _Tail.of(file)
            with Image.open(file) as image:
                if image.width * image.height > MAX_DECODED_PIXELS:
                    raise UnreadableImageError(path, _too_large(image))
                if not tail.complete:
                    image.load()
                size = image.size  # of a TIFF file, some versions of Pillow turn it when it is loaded
                turned = not tail.plain and _orientation(image) != 1
                across = turned and _orientation(image) >= 5
                return ImageHeader(size, size[::-1] if across else size, turned, image.mode)
    except UnreadableImageError as error:
        return error


@dataclass(frozen=True)
class _Tail:
    """What the layout of a file tells without its decoder.

    Attributes:
        complete: it is a JPEG or PNG file that reaches its end.
        plain: it is a PNG file without anything in it that could tell an orientation, which Pillow would decode the
            whole file for.
    """

    complete: bool
    plain: bool

    @classmethod
    def of(cls, file: IO[bytes]) -> _Tail:
        start = file.read(8)
        if start == b"\x89PNG\r\n\x1a\n":
            found = cls._of_png(file)
        elif start.startswith(b"\xff\xd8"):
            file.seek(max(0, os.fstat(file.fileno()).st_size - 64))
            found = cls(b"\xff\xd9" in file.read(), False)
        else:
            found = cls(False, False)
        file.seek(0)
        return found

    @classmethod
    def _of_png(cls, file: IO[bytes]) -> _Tail:
        plain = True
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            after = file.tell() + length + 4
            if kind == b"IEND":
                return cls(after <= size, plain)
            if kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                words = file.read(min(length, 32))
                plain &= kind != b"eXIf" and not words.startswith((b"Raw profile type", b"XML:com.adobe.xmp"))
            file.seek(after)
        return cls(False, plain)


@contextmanager
def opened_image(source: str | Path | IO[bytes]) -> Iterator[tuple[Image.Image, Path]]:
    """The image of a path or an open file, not yet decoded, and its path for messages.

    Whatever goes wrong with the file, in the block too, is raised as an `UnreadableImageError`.
    """
    if isinstance(source, (str, Path)):
        path = _image_file(source)
        # by a handle, as Pillow maps uncompressed files into memory by their path, and turned TIFF files wrongly then
        with _reasons(path), _without_size_limit(), path.open("rb") as file, Image.open(file) as image:
            yield image, path
    else:
        path = Path(str(getattr(source, "name", "<data>")))
        with _reasons(path), _without_size_limit(), Image.open(source) as image:
            yield image, path


def _check_mode(mode: str) -> None:
    if mode not in ("RGB", "L"):
        raise ValueError(f"mode must be 'RGB' or 'L', got {mode!r}")


def _image_file(path: str | Path) -> Path:
    try:
        return regular_file(path)
    except UnreadableFileError as error:
        raise UnreadableImageError(error.path, error.reason) from error.__cause__


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, as an UnreadableImageError."""
    try:
        yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "the file is empty" if empty else "it is not an image in a format that Pillow knows"
        raise UnreadableImageError(path, reason) from error
    except PermissionError as error:
        raise UnreadableImageError(path, f"it cannot be opened ({error.strerror})") from error
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


def _decode(image: Image.Image, max_pixels: int, path: Path) -> None:
    """Decode the pixels, at a fraction of the size where the format allows that (JPEG) and less is enough."""
    image.draft(None, _size_within(image, max_pixels))
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise UnreadableImageError(path, _too_large(image))
    image.load()


def _too_large(image: Image.Image) -> str:
    size = f"{image.width}×{image.height} pixels"
    return f"{size} are more than the {MAX_DECODED_PIXELS:,} that are decoded; shrink it first"


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none, and for TIFF, which Pillow turns while it loads."""
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are fine
        _logger.debug("ignoring a damaged EXIF block", exc_info=True)
        return 1
    return orientation if orientation in range(1, 9) else 1


def upright_image(image: Image.Image) -> Image.Image:
    """The decoded image with its EXIF orientation applied, in place."""
    if _orientation(image) != 1:
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # the turned pixels are there before the EXIF block is written again
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
    elif image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = cast(Image.Image, ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB"))
    if image.has_transparency_data:
        image = _over_white(image)
    return image.convert(mode) if image.mode != mode else image.copy()


def _over_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where the pixels now have 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Wide integers and floats to grayscale (the rule is in `read_image`)."""
    values = np.asarray(image).astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    key = image.info.get("transparency")
    clear = values == key if isinstance(key, int) else np.zeros_like(values, dtype=bool)
    low, high = float(values.min()), float(values.max())
    natural = 1.0 if image.mode.startswith("F") else 65535.0
    if low >= 0 and high <= natural:
        low, high = 0.0, natural
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    scaled[clear] = 255.0  # as over white
    return Image.fromarray(np.rint(scaled).astype(np.uint8), mode="L")
