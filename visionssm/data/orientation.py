"""Images whose files say that a viewer must turn them (EXIF orientation): are their labels turned or not?"""

from __future__ import annotations

from typing import Any, Literal

from visionssm.data.errors import DatasetError
from visionssm.data.images import ImageHeader

ORIENTATIONS = ("upright", "stored")
"""What a data set's `orientation` may be, besides None."""

CHOICES = "orientation='upright' or 'stored'"
"""How the user of a data set says which."""


def check_orientation(orientation: Any) -> None:
    """Look at the argument of a data set.

    Raises:
        DatasetError: it is none of the known ones.
    """
    if orientation is not None and orientation not in ORIENTATIONS:
        raise DatasetError(f"orientation must be None, 'upright' or 'stored', got {orientation!r}")


def orientation_of_labels(
    header: ImageHeader, size: tuple[int, int], orientation: str | None
) -> Literal["upright", "stored", "neither", "either"]:
    """What the labels of an image are labels of.

    Args:
        header: of the image file.
        size: (width, height) that the labels are for.
        orientation: "upright" where the labels are known to be of images as viewers show them, "stored" where of the
            pixels as the file has them; None to tell it by the size.
    Returns:
        "upright" or "stored"; "neither" if the size fits neither (or not the one asked for); "either" if the size fits
        both, and which one the labels are of is not known.
    """
    fits = {"upright": header.upright == size, "stored": header.stored == size}
    if orientation is None and header.turned:
        if all(fits.values()):
            return "either"
        return "upright" if fits["upright"] else "stored" if fits["stored"] else "neither"
    if not fits[orientation or "upright"]:
        return "neither"
    return "stored" if orientation == "stored" else "upright"
