"""Images as they are stored, with 16 bits and transparency, and PNG files of such images.

Pillow decodes colours of 16 bits to their upper bytes. Its decoders can be told the order of the bytes, and told the
wrong one they give the lower bytes.
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.images import UnreadableImageError, opened_image, to_8_bit, upright_image
from visionssm.files import complete_or_absent

_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_ROWS = 64
_GREY_ALPHA = "LA;16B"  # Pillow's only name for it; its four bytes are read as colours


@dataclass(frozen=True)
class Photo:
    """An image file.

    Attributes:
        pixels: (H, W, C) in [0, 1], C = 1 for grey images, else 3; float32.
        alpha: (H, W) in [0, 1], or None for an image that is nowhere transparent.
        bits: of a value in the file, 8 or 16.
        icc: the colour profile, if there is one.
        path: of the file.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    bits: int
    icc: bytes | None
    path: Path


def read_photo(path: str | Path, most: int) -> Photo:
    """The first frame of an image file, upright, in its own precision.

    Palettes become colours; so do CMYK and other spaces, by Pillow's rules.

    Args:
        path: of a file in any format that Pillow reads.
        most: pixels that it may have.
    Raises:
        UnreadableImageError: (a ValueError) it is missing, no image, damaged, too large, or has numbers of 32 bits.
    """
    with opened_image(path) as (image, path):
        if image.width * image.height > most:
            size = f"{image.width}×{image.height} pixels"
            raise UnreadableImageError(path, f"{size} are more than the {most:,} that are restored; cut or shrink it")
        wide = _wide(image)
        image.load()
        icc, key, stored_as = image.info.get("icc_profile"), image.info.get("transparency"), image.format
        image = upright_image(image)
        mode = image.mode
        single = mode.startswith("I;16") or (mode == "I" and stored_as in ("PNG", "PPM"))  # of 16 bits, scaled to them
        if mode[0] in "IF" and not single:
            raise UnreadableImageError(
                path, f"its numbers ({mode}) have no range that means black and white; store 8 or 16 bits"
            )
        values = np.asarray(image) if single or wide is not None else _of_8_bits(image)
    if wide is not None:
        values = _joined(values, _lower_bytes(path, wide), wide == _GREY_ALPHA)
    values = values if values.ndim == 3 else values[..., None]
    if single or wide is not None:
        return _photo(values.astype(np.uint16), _key_alpha(values, key), 16, icc, path)
    return _photo(values, None, 8, icc, path)


def _of_8_bits(image: Image.Image) -> np.ndarray:
    """(H, W), or (H, W, C) with alpha as the last of two or four channels."""
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if grey else "RGBA"))
    return np.asarray(to_8_bit(image, "L" if grey else "RGB"))


def _photo(values: np.ndarray, alpha: np.ndarray | None, bits: int, icc: Any, path: Path) -> Photo:
    scaled = values.astype(np.float32) / np.float32(2**bits - 1)
    if values.shape[2] in (2, 4):
        scaled, alpha = scaled[..., :-1], scaled[..., -1]
    return Photo(scaled, alpha, bits, icc if isinstance(icc, bytes) else None, path)


def _wide(image: Image.Image) -> str | None:
    """How Pillow calls the bytes of a file with several numbers of 16 bits a pixel; None for all others."""
    args = [tile[3] for tile in getattr(image, "tile", ())]
    raw = {x if isinstance(x, str) else x[0] if isinstance(x, tuple) and x else None for x in args}
    name = raw.pop() if len(raw) == 1 else None
    colours = isinstance(name, str) and image.mode in ("RGB", "RGBA") and name.endswith(tuple(_OTHER_BYTE))
    return name if colours else None


def _lower_bytes(path: Path, name: str) -> np.ndarray:
    stem, _, order = name.rpartition(";")
    other = "RGBA" if name == _GREY_ALPHA else f"{stem};{_OTHER_BYTE[order]}"
    with opened_image(path) as (image, _):
        image.tile = [  # type: ignore[attr-defined]
            (*tile[:3], other if isinstance(tile[3], str) else (other, *tile[3][1:]))
            for tile in image.tile  # type: ignore[attr-defined]
        ]
        image.load()
        return np.asarray(upright_image(image))


def _joined(high: np.ndarray, low: np.ndarray, grey_alpha: bool) -> np.ndarray:
    if grey_alpha:  # `low` holds the four bytes of a pixel
        return low.astype(np.uint16)[..., 0::2] << 8 | low[..., 1::2]
    return high.astype(np.uint16) << 8 | low


def _key_alpha(values: np.ndarray, key: Any) -> np.ndarray | None:
    """Transparency of the pixels that have the one colour that a PNG file names as transparent."""
    if key is None or values.shape[2] in (2, 4) or isinstance(key, bytes):
        return None
    return np.where((values == np.asarray(key)).all(-1), 0.0, 1.0).astype(np.float32)


def quantised(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Values of [0, 1] as levels of 8 or 16 bits, uint8 or uint16."""
    levels = np.empty(pixels.shape, np.uint8 if bits == 8 else np.uint16)
    for start in range(0, len(pixels), _ROWS):  # some rows at a time, as each step makes a copy
        rows = pixels[start : start + _ROWS]
        levels[start : start + _ROWS] = (rows.clip(0, 1) * np.float32(2**bits - 1)).round()
    return levels


def write_png(pixels: np.ndarray, path: Path, icc: bytes | None = None) -> None:
    """Write a PNG file that is complete or absent (W3C's specification of PNG, third edition).

    Args:
        pixels: (H, W, C) uint8 or uint16: grey, grey and alpha, colours, or colours and alpha.
        path: of the file.
        icc: colour profile.
    Raises:
        OSError: the file cannot be written.
    """
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # each row as its difference to the one above
    lines[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    chunks = [(b"IHDR", header)]
    if icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    with complete_or_absent(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in chunks:
            file.write(struct.pack(">I", len(content)) + kind + content)
            file.write(struct.pack(">I", zlib.crc32(kind + content)))
