"""Text labels of YOLO programs, a file per image, as one file in COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionssm.data.errors import DatasetError
from visionssm.data.folders import files_below
from visionssm.data.images import UnreadableImageError, inspect_images
from visionssm.data.problems import Mistake, Problems, checked_classes

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Ends of the names of images."""

_FIELDS = 5
_ROUNDING = 1e-3
_LARGEST_FILE = 2**24
_REMEDY = "Mend them, or leave them out with --skip."


def yolo_to_coco(
    images: str | Path, labels: str | Path, classes: Sequence[str], wrong: str = "raise"
) -> dict[str, Any]:
    """All boxes of a folder of images, from text files: class, x and y of the centre, width and height on a line.

    Classes are numbers from 0; the four others are shares of the width and height of the image as it is shown (with its
    EXIF orientation). The file of `folder/name.jpg` is `folder/name.txt` below the folder of the labels. Images without
    a file, or with an empty one, have no objects.

    Args:
        images: folder of the images, which may have folders in it.
        labels: folder of the text files.
        classes: names in the order of their numbers.
        wrong: "raise" tells all mistakes at once; "skip" leaves them out and logs how many.
    Returns:
        `images` (names relative to the folder), `annotations` and `categories` (ids from 1).
    Raises:
        DatasetError: a folder is missing or has no image; with "raise": lines that are no box, classes that have no
            name, boxes outside of their image, text files without an image, images that cannot be read.
    """
    images, labels = Path(images).expanduser(), Path(labels).expanduser()
    for folder in (images, labels):
        if not folder.is_dir():
            raise DatasetError(f"looked for the folder {str(folder.absolute())!r}, which is not there")
    names = checked_classes(classes)
    paths = files_below(images, SUFFIXES)
    if not paths:
        raise DatasetError(f"{str(images)!r} has no image; names of images end in {', '.join(SUFFIXES)}")
    problems = Problems()
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    text_of: dict[Path, str] = {}
    for path, header in zip(paths, inspect_images(paths), strict=True):
        name = path.relative_to(images)
        if name.with_suffix(".txt") in text_of:
            problems.add("images that share a label file with another", repr(name.as_posix()))
            continue
        text_of[name.with_suffix(".txt")] = name.as_posix()
        if isinstance(header, UnreadableImageError):
            problems.add("image files that cannot be read", f"{name.as_posix()!r} ({header.reason})")
            continue
        width, height = header.upright
        image_id = len(content["images"]) + 1
        content["images"].append({"id": image_id, "file_name": name.as_posix(), "width": width, "height": height})
        for place, line in enumerate(_lines(labels / name.with_suffix(".txt"), problems), start=1):
            try:
                number, box = _object(line, len(names))
            except Mistake as mistake:
                problems.note(f"{name.with_suffix('.txt').as_posix()}:{place}", mistake)
                continue
            left, top, across, along = (x * side for x, side in zip(box, (width, height) * 2, strict=True))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": number + 1,
                    "bbox": [round(x, 3) for x in (left, top, across, along)],
                    "area": round(across * along, 3),
                    "iscrowd": 0,
                }
            )
    for path in files_below(labels, (".txt",)):
        if path.relative_to(labels) not in text_of and path.name != "classes.txt":
            problems.add("label files without an image", repr(path.relative_to(labels).as_posix()))
    problems.settle(repr(str(labels)), wrong, _REMEDY)
    if not content["images"]:
        raise DatasetError(f"{str(images)!r} has no image that can be used")
    return content


def _lines(path: Path, problems: Problems) -> list[str]:
    """Lines of a label file that are not empty; none if there is no such file."""
    try:
        if not path.exists():
            return []
        if path.stat().st_size > _LARGEST_FILE:
            problems.add("label files that are too large", repr(path.name))
            return []
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problems.add("label files that cannot be read", f"{path.name!r} ({error})")
        return []


def _object(line: str, count: int) -> tuple[int, tuple[float, float, float, float]]:
    """Class, and left, top, width and height in shares of the image.

    Raises:
        Mistake: the line is no box of a class inside of an image.
    """
    fields = line.split()
    if len(fields) != _FIELDS:
        raise Mistake("lines that have not five numbers (outlines and scores are not read)", line[:60])
    try:
        number, x, y, width, height = int(fields[0]), *map(float, fields[1:])
    except ValueError:
        raise Mistake("lines that have not five numbers (outlines and scores are not read)", line[:60]) from None
    if not 0 <= number < count:
        raise Mistake(f"classes that have no name (there are {count}, from 0)", fields[0])
    if not (0 < width <= 1 + _ROUNDING and 0 < height <= 1 + _ROUNDING):
        raise Mistake("boxes without area, or larger than their image (sides are shares of it)", line[:60])
    left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if not (min(left, top) >= -_ROUNDING and max(right, bottom) <= 1 + _ROUNDING):
        raise Mistake("boxes that reach out of their image", line[:60])
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    return number, (left, top, right - left, bottom - top)
