"""How images become squares for Mamba-YOLO, without PyTorch: sizes and colour of the letter box."""

from __future__ import annotations

from typing import Any

GREY = 114 / 255
"""Of what no image covers."""

LARGEST_SIDE = 4096


def check_size(size: Any) -> None:
    """Refuse a side that no image can be scaled to.

    Raises:
        ValueError: it is no multiple of 32 from 32 to 4096.
    """
    if type(size) is not int or not 32 <= size <= LARGEST_SIDE or size % 32:
        raise ValueError(f"size={size!r} must be a multiple of 32 from 32 to {LARGEST_SIDE}")


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is made as long as given, the other in proportion, at least 1."""
    ratio = side / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def filled(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The next multiples of a number."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple
