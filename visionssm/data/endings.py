"""Files that are cut off: those of some formats say where they end, and decoders take what is there for all of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)  # of what was written as a stream


def ends_early(path: str | Path) -> bool:
    """Whether a file is shorter than it says itself: RIFF (AVI, WebP), Matroska (WebM), GIF; False of all others.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        length = os.fstat(file.fileno()).st_size
        if head[:4] == b"RIFF" and len(head) >= 8:
            said = int.from_bytes(head[4:8], "little")
            return said not in _UNKNOWN_RIFF and 8 + said > length
        if head[:4] == _EBML:
            end = _end_of_segment(head)
            return end is not None and end > length
        if head[:4] == b"GIF8":
            return not _gif_has_end(file)
    return False


def _end_of_segment(head: bytes) -> int | None:
    """Where the part of a Matroska file that holds everything ends; None if that is not said (RFC 8794, 9559)."""
    header, after = _size(head, 4)
    place = after + (header or 0)
    if header is None or head[place : place + 4] != _SEGMENT:
        return None
    size, after = _size(head, place + 4)
    return None if size is None else after + size


def _size(head: bytes, place: int) -> tuple[int | None, int]:
    """A size of EBML at a place, None for an unknown one, and the place behind it."""
    first = head[place] if place < len(head) else 0
    if first == 0:
        return None, place
    width = 9 - first.bit_length()
    most = (1 << 7 * width) - 1
    value = int.from_bytes(head[place : place + width], "big") & most
    return (None if value == most else value), place + width


def _gif_has_end(file: IO[bytes]) -> bool:
    """Whether the blocks of a GIF file lead to its end mark (GIF89a, section 27)."""
    file.seek(10)
    flags = _byte(file)
    file.seek(13)
    _skip_colours(file, flags)
    while True:
        kind = _byte(file)
        if kind == 0x3B:
            return True
        if kind == 0x2C:  # an image: place and size, colours, bits of a code
            file.seek(8, os.SEEK_CUR)
            flags = _byte(file)
            _skip_colours(file, flags)
            file.seek(1, os.SEEK_CUR)
        elif kind == 0x21:  # an extension: its label
            file.seek(1, os.SEEK_CUR)
        else:
            return kind != -1  # no block: not cut off, but damaged, which its decoder tells
        while (count := _byte(file)) > 0:
            file.seek(count, os.SEEK_CUR)
        if count < 0:
            return False


def _skip_colours(file: IO[bytes], flags: int) -> None:
    if flags >= 0 and flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)


def _byte(file: IO[bytes]) -> int:
    """The next byte; −1 at the end of the file."""
    read = file.read(1)
    return read[0] if read else -1
