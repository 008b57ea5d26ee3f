"""What strangers send instead of an image, and the status that they get."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(width: int = 30, height: int = 20, seed: int = 0) -> bytes:
    """A small image that can be used."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 1] |= 128
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)  # type: ignore[arg-type]
    return content.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose few bytes stand for many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


_IMAGE = Image.new("RGB", (20, 20), "green")
_JPEG = _saved(_IMAGE, "JPEG")

RUBBISH: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "one byte": (b"\x00", 400),
    "text": (b"hello, this is no image", 400),
    "html": (b"<html><script>alert(1)</script></html>", 400),
    "noise": (np.random.default_rng(1).bytes(5000), 400),
    "half a png": (png()[: len(png()) // 2], 400),
    "a png's first bytes": (png()[:16], 400),
    "half a jpeg": (_JPEG[: len(_JPEG) // 2], 400),
    "a jpeg's first bytes": (_JPEG[:3], 400),
    "a wrong checksum": (png()[:60] + b"\xff\xff\xff" + png()[63:], 400),
    "a bomb of a gigapixel": (bomb(40_000, 40_000), 413),
    "a bomb beyond all bounds": (bomb(2**31 - 1, 2**31 - 1), 413),
    "a bomb within the limit": (bomb(4096, 4096), 400),
    "a line of pixels": (_saved(Image.new("L", (5000, 1)), "PNG"), 400),
    "postscript": (_saved(_IMAGE, "EPS"), 400),
    "a pdf": (_saved(_IMAGE, "PDF"), 400),
    "an icon": (_saved(_IMAGE, "ICO"), 400),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", 400),
    "a pickle": (b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.", 400),
    "an elf": (b"\x7fELF\x02\x01\x01" + bytes(200), 400),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(100), 400),
    "a tiff without pixels": (b"II*\x00\x08\x00\x00\x00\x00\x00", 400),
    "a gif without frames": (b"GIF89a\xff\xff\xff\xff\x00\x00\x00;", 400),
}
