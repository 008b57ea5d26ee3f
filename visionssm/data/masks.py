"""Masks in COCO's forms: polygons and run lengths, looked at before pycocotools' C code gets them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from visionssm.extras import needs_extra

_FARTHEST = 16
"""How many image sides a corner of a polygon may lie outside: drawing takes time and memory with the distance."""

_LONGEST = 7
"""Characters of a compressed run length: more would overflow 32 bits."""


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's plain run-length form of an (H, W) mask: lengths down the columns, beginning with the zeros."""
    flat = np.asarray(mask, dtype=bool).flatten(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    counts = ([0] if flat.size and flat[0] else []) + runs.tolist()
    return {"size": list(mask.shape), "counts": counts}


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of the pixels of an (H, W) mask, of which there is at least one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def check_mask(segmentation: Any, height: int, width: int) -> None:
    """Look whether `decode_mask` will succeed, without making the pixels.

    Args: as `decode_mask`.
    Raises:
        ValueError: it will not; says why.
    """
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"its size is {str(segmentation.get('size'))[:40]}, not [{height}, {width}]")
        _check_run_lengths(segmentation.get("counts"), height * width)
    elif isinstance(segmentation, (list, tuple)) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon, height, width)
    else:
        raise ValueError("it is neither a list of polygons nor run lengths")


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO polygons or run lengths (plain or compressed) as an (H, W) bool mask.

    Args:
        segmentation: `[[x1, y1, x2, y2, …], …]`, or `{"size": [H, W], "counts": list or string}`.
        height: of the image.
        width: of the image.
    Raises:
        ValueError: it is none of these, or of another size.
        MissingExtraError: (an ImportError) pycocotools is not installed.
    """
    coder = mask_coder()
    try:
        check_mask(segmentation, height, width)
        if isinstance(segmentation, Mapping):
            packed: Any = dict(segmentation)
            if isinstance(packed["counts"], list):
                packed = coder.frPyObjects(packed, height, width)
        else:
            packed = coder.merge(coder.frPyObjects(list(segmentation), height, width))
        mask = coder.decode(packed)
    except Exception as error:  # the C code raises whatever comes
        of = segmentation.get("size") if isinstance(segmentation, Mapping) else None
        if isinstance(of, (list, tuple)) and len(of) == 2 and list(of) != [height, width]:
            raise ValueError(f"segmentation is of a {of[1]}×{of[0]} image, not {width}×{height}") from error
        raise ValueError(f"segmentation cannot be decoded ({type(error).__name__}: {error})") from error
    return mask.astype(bool)


def mask_coder() -> Any:
    """`pycocotools.mask`.

    Raises:
        MissingExtraError: (an ImportError) pycocotools is not installed.
    """
    with needs_extra("train", "handling masks"):
        from pycocotools import mask
    return mask


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, (list, tuple)) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon is not an even number of coordinates, 6 or more")
    reach = _FARTHEST * max(height, width)
    # built-in functions, as large sets have fifty million coordinates; a NaN shows in the sum
    numbers = set(map(type, polygon)) <= {int, float}
    if not numbers or not (-reach <= min(polygon) and max(polygon) <= reach) or not _is_finite_sum(polygon):
        raise ValueError("a polygon has coordinates that are no numbers or far outside the image")


def _is_finite_sum(numbers: Sequence[float]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:  # an int beyond all floats
        return False


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is an int or a float, and finite."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and (type(value) is int or math.isfinite(value))
    )


def _check_run_lengths(counts: Any, pixels: int) -> None:
    if isinstance(counts, str):
        counts = counts.encode("latin-1", "replace")
    if isinstance(counts, bytes):
        counts = _uncompressed(counts)
    if not isinstance(counts, Sequence) or not all(type(x) is int and x >= 0 for x in counts) or sum(counts) != pixels:
        raise ValueError(f"its run lengths do not add up to the {pixels} pixels of the image")


def _uncompressed(counts: bytes) -> list[int]:
    """Run lengths of pycocotools' string form: groups of 5 bits, from the third length on differences to the second
    length before.

    Raises:
        ValueError: it is not of that form, which pycocotools does not notice.
    """
    values = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if values.size and (values.min() < 0 or values.max() > 63 or values[-1] & 32):
        raise ValueError("its compressed run lengths hold other characters than there are, or end too early")
    last = np.flatnonzero((values & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
    if last.size and int((last - first).max()) >= _LONGEST:
        raise ValueError("one of its compressed run lengths is too long")
    place = np.arange(values.size) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((values & 31) << (5 * place), first) if last.size else values
    numbers -= np.where(values[last] & 16, 1 << (5 * (last - first + 1)), 0)  # the uppermost bit is the sign
    numbers[2::2] = np.cumsum(numbers[2::2])
    numbers[1::2] = np.cumsum(numbers[1::2])
    return numbers.tolist()
