"""Label images: a class number per pixel, in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from visionssm.data.images import ImageHeader, UnreadableImageError, read_numbers
from visionssm.data.orientation import CHOICES, orientation_of_labels
from visionssm.data.problems import Mistake


def check_pair(
    image: ImageHeader | UnreadableImageError,
    label: ImageHeader | UnreadableImageError,
    orientation: str | None,
    choices: str = CHOICES,
) -> tuple[bool, tuple[int, int]]:
    """Look whether image and label image can be read and belong together.

    Args:
        image: of the image file.
        label: of the label image's file.
        orientation: "upright", "stored" or None, see `orientation_of_labels`.
        choices: how the user says which, for the message.
    Returns:
        whether the labels are of the image as it is shown (else they are of its pixels as they are stored), and their
        (width, height).
    Raises:
        Mistake: they cannot be used.
    """
    for header in (image, label):
        if isinstance(header, UnreadableImageError):
            raise Mistake("files that cannot be read", reason_of(header))
    assert isinstance(image, ImageHeader)
    assert isinstance(label, ImageHeader)
    if label.mode not in ("L", "P", "1", "I") and not label.mode.startswith("I;"):
        raise Mistake("label images with colours instead of class numbers", f"mode {label.mode}")
    if label.turned:
        raise Mistake("label images that viewers turn (EXIF orientation); save them without")
    labelled = orientation_of_labels(image, label.stored, orientation)
    if labelled == "neither":
        size = image.stored if orientation == "stored" else image.upright
        sizes = " and ".join(f"{w}×{h}" for w, h in (size, label.stored))
        raise Mistake("label images of another size than their image", sizes)
    if labelled == "either":
        raise Mistake(
            f"images that viewers turn (EXIF orientation), whose label images fit both ways (say which with {choices})"
        )
    return labelled == "upright", label.stored


def odd_numbers(numbers: np.ndarray, known: AbstractSet[int]) -> list[int]:
    """Numbers that occur in a label image and are not known, in order."""
    return sorted(set(np.unique(numbers).tolist()) - known)


def reason_of(error: Exception) -> str:
    """What is wrong with a file; without its name, where the message has that already."""
    return error.reason if isinstance(error, UnreadableImageError) else str(error)


def class_numbers_of(path: Path) -> np.ndarray:
    """(H, W) int64 numbers of a label image; of palette images the indices, not the colours.

    Raises:
        ValueError: the file cannot be read, or has colours.
    """
    numbers = read_numbers(path)
    if numbers.ndim != 2 or numbers.dtype.kind not in "biu":
        raise ValueError(f"label image {str(path)!r} has colours instead of class numbers")
    return numbers.astype(np.int64)


def some(numbers: Sequence[int]) -> str:
    """The first of many numbers, for a message."""
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
