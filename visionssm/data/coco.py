"""Files in COCO's format, looked through as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import (
    MAX_DECODED_PIXELS,
    ImageHeader,
    UnreadableImageError,
    inspect_images,
    read_image,
)
from visionssm.data.masks import check_mask, is_number
from visionssm.data.orientation import CHOICES, orientation_of_labels
from visionssm.data.problems import Mistake, Problems, checked_classes
from visionssm.data.spelling import closest

HELP = (
    "A COCO-format set is a folder of images and a JSON file with 'images', 'annotations' and 'categories' "
    "(https://cocodataset.org/#format-data). Point to yours with root, annotations and images in the data set's config."
)


def check_files(root: str | Path, annotations: str, images: str) -> None:
    root = Path(root).expanduser()
    for path, kind, there in (
        (root / annotations, "file", (root / annotations).is_file()),
        (root / images, "folder", (root / images).is_dir()),
    ):
        if not there:
            raise DatasetError(f"data set not found: looked for the {kind} {str(path.absolute())!r}. {HELP}")


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO file with its three lists.

    Raises:
        DatasetError: it cannot be read, is no JSON file, or a list is missing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{str(path)!r} is no JSON file: {error}. {HELP}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise DatasetError(f"{str(path)!r} has no list {' nor '.join(map(repr, missing))}. {HELP}")
    return content


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, Mapping) else None


def _key(entry: Any, key: str) -> int | str | None:
    """An id; None where there is none that can be one."""
    value = _get(entry, key)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def category_names(entries: Sequence[Any], path: Path) -> dict[str, int | str]:
    """Ids of the categories of a file by name, in the file's order.

    Raises:
        DatasetError: one has no name or no id, or two have the same.
    """
    named: dict[str, int | str] = {}
    for place, entry in enumerate(entries):
        name, key = _get(entry, "name"), _key(entry, "id")
        if not isinstance(name, str) or key is None:
            raise DatasetError(f"{str(path)!r}: category number {place} has no name or no id: {repr(entry)[:60]}")
        named.setdefault(name, key)
    if len(named) != len(entries) or len(set(named.values())) != len(entries):
        raise DatasetError(f"{str(path)!r} has categories of the same name or id")
    return named


def class_numbers(
    entries: Sequence[Any], wanted: Sequence[str] | None, path: Path
) -> tuple[list[str], dict[int | str, int]]:
    """Class names in order, and the class number (from 1) of every category id."""
    named = category_names(entries, path)
    classes = list(named) if wanted is None else checked_classes(wanted)
    for name in classes:
        if name not in named:
            raise DatasetError(f"classes: {name!r} is no category of {str(path)!r}; closest: {closest(name, named)}")
    return classes, {named[name]: number for number, name in enumerate(classes, start=1)}


LARGEST = 1e9
"""Coordinates beyond are no coordinates, and overflow where others read them."""

UNREADABLE = "image files that cannot be read"
"""Kind of problem of damaged files."""


def checked_images(
    entries: Sequence[Any],
    folder: Path,
    problems: Problems,
    *,
    root: Path,
    orientation: str | None,
    choices: str = CHOICES,
) -> dict[int | str, dict[str, Any]]:
    """Images that can be used, by id; the others are noted as problems.

    Args:
        entries: the file's images.
        folder: that names are relative to.
        problems: what is found wrong.
        root: another folder that images may lie in.
        orientation: "upright", "stored" or None, see `orientation_of_labels`.
        choices: how the user says which, for messages.
    Returns:
        `file_name` as in the file; `name`, relative to the folder, or to root where the image is not in it, and never
        leading out of it; `path`, `height`, `width`, and `upright`: annotations are of the image as it is shown.
    """
    listed: dict[int | str, tuple[str, Path, int, int]] = {}
    allowed = [os.path.abspath(x) for x in (folder, root)]
    for entry in entries:
        key, name = _key(entry, "id"), _get(entry, "file_name")
        height, width = (_whole(_get(entry, side)) for side in ("height", "width"))
        if key is None or not isinstance(name, str) or height is None or width is None:
            problems.add("images without id, file_name, height or width", repr(entry)[:60])
        elif key in listed:
            problems.add("images with an id that another has", f"id {key!r}")
        else:
            path = Path(os.path.abspath(folder / name))
            if any(path.is_relative_to(x) for x in allowed):
                listed[key] = (name, path, height, width)
            else:
                problems.add(
                    f"image files outside of {str(folder)!r} and {str(root)!r} (set root to a folder that holds them)",
                    repr(name),
                )
    found: dict[int | str, dict[str, Any]] = {}
    headers = inspect_images([path for _, path, _, _ in listed.values()])
    for (key, (name, path, height, width)), header in zip(listed.items(), headers, strict=True):
        if isinstance(header, UnreadableImageError):
            missing = not os.path.lexists(path)
            kind = f"image files that are not in {str(folder)!r}" if missing else UNREADABLE
            problems.add(kind, repr(name) if missing else f"{name!r} ({header.reason})")
            continue
        upright = _orientation(header, name, (width, height), orientation, choices, problems)
        if upright is not None:
            inside = next(path.relative_to(x) for x in allowed if path.is_relative_to(x)).as_posix()
            about = {"file_name": name, "name": inside, "path": path}
            found[key] = {**about, "height": height, "width": width, "upright": upright}
    return found


def read_listed(about: Mapping[str, Any]) -> Image.Image:
    """The pixels of an image, of what `checked_images` returned for it.

    Raises:
        CorruptImageError: it cannot be decoded, or has another size than the file says.
    """
    remedy = "replace it, remove it from the annotations, or set wrong='skip' in the data set's config"
    try:
        image = read_image(about["path"], max_pixels=MAX_DECODED_PIXELS, upright=about["upright"])
    except UnreadableImageError as error:
        raise CorruptImageError(f"{error}; {remedy}") from error
    if (image.height, image.width) != (about["height"], about["width"]):
        raise CorruptImageError(
            f"image {str(about['path'])!r} is {image.width}×{image.height}, its annotations are for "
            f"{about['width']}×{about['height']}; {remedy}"
        )
    return image


def _whole(value: Any) -> int | None:
    """A side of an image; None for anything else than a positive whole number."""
    return int(value) if is_number(value) and 0 < value < 2**31 and value == int(value) else None


def _orientation(
    header: ImageHeader, name: str, size: tuple[int, int], orientation: str | None, choices: str, problems: Problems
) -> bool | None:
    """Whether annotations are of the image as it is shown; None, and a problem, if that is not so or not known."""
    labelled = orientation_of_labels(header, size, orientation)
    if labelled == "neither":
        there = {"upright": [header.upright], "stored": [header.stored]}
        fitting = there.get(str(orientation), [header.upright, header.stored])
        sizes = " or ".join(dict.fromkeys(f"{w}×{h}" for w, h in fitting))
        problems.add(
            "images of another size than the file says", f"{name!r} ({sizes}, annotated as {size[0]}×{size[1]})"
        )
    elif labelled == "either":
        problems.add(
            f"images that viewers turn (EXIF orientation), whose annotations fit both ways (say which with {choices})",
            repr(name),
        )
    return {"upright": True, "stored": False}.get(labelled)


UNDECODABLE = "masks that cannot be decoded"
"""Kind of problem of such annotations."""


def checked_objects(
    entries: Sequence[Any],
    images: Mapping[int | str, Mapping[str, Any]],
    numbers: Mapping[int | str, int],
    every_category: bool,
    problems: Problems,
    more: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    noun: str = "annotation",
) -> dict[int | str, list[dict[str, Any]]]:
    """Objects that can be used, by the id of their image; the others are noted as problems.

    Args:
        entries: the file's annotations.
        images: as `checked_images` returned them.
        numbers: class number of every category id that is used.
        every_category: other category ids are mistakes.
        problems: what is found wrong.
        more: reads further fields of an annotation, and raises a `Mistake` where one is wrong.
        noun: what messages call an entry.
    Returns:
        `id` (the place in the file where there is none), `box` (left, top, right, bottom) within the image, `whole_box`
        as the file has it, `label`, `mask` and `crowd`; and what `more` reads.
    """
    found: dict[int | str, list[dict[str, Any]]] = {}
    for place, entry in enumerate(entries):
        key = _key(entry, "id")
        example = f"{noun} number {place}" if key is None else f"{noun} {key!r}"
        image_key, category = _key(entry, "image_id"), _key(entry, "category_id")
        image = None if image_key is None else images.get(image_key)
        if image is None or image_key is None:
            problems.add(
                f"{noun}s of images that are not listed or missing",
                f"{example} of {repr(_get(entry, 'image_id'))[:60]}",
            )
            continue
        if category not in numbers:
            if every_category:
                problems.add(
                    f"{noun}s with an unknown category id",
                    f"{example} with category_id {repr(_get(entry, 'category_id'))[:60]}",
                )
            continue
        whole = _whole_box(_get(entry, "bbox"))
        box = None if whole is None else _clipped(whole, image["width"], image["height"])
        if whole is None or box is None:
            problems.add(
                "boxes without area inside their image",
                f"{example} with bbox {repr(_get(entry, 'bbox'))[:60]} in {image['file_name']!r}",
            )
            continue
        mask = _get(entry, "segmentation") or None
        try:
            if mask is not None:
                check_mask(mask, image["height"], image["width"])
        except ValueError:
            problems.add(UNDECODABLE, example)
            continue
        try:
            further = {} if more is None else more(entry)
        except Mistake as mistake:
            problems.add(mistake.kind, f"{example}: {mistake.detail}" if mistake.detail else example)
            continue
        found.setdefault(image_key, []).append(
            {
                "id": place if key is None else key,
                "box": box,
                "whole_box": box if whole == box else whole,  # one object: large sets have a million
                "label": numbers[category],  # type: ignore[index]
                "mask": mask,
                "crowd": bool(_get(entry, "iscrowd")),
                **further,
            }
        )
    return found


def _whole_box(box: Any) -> list[float] | None:
    """(left, top, width, height) as (left, top, right, bottom); None if it is no box."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(is_number(x) and abs(x) < LARGEST for x in box):
        return None
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height]


def _clipped(box: Sequence[float], width: int, height: int) -> list[float] | None:
    """The part of a box inside the image; None if nothing is left."""
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[2]), min(float(height), box[3])
    return [left, top, right, bottom] if right > left and bottom > top else None
