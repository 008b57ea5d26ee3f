"""Images with boxes and masks in COCO's format, checked as a whole before the first one is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.data.problems import Problems
from visionssm.data.spelling import closest
from visionssm.extras import needs_extra

HELP = (
    "A COCO-format set is a folder of images and a JSON file with 'images', 'annotations' and 'categories' "
    "(https://cocodataset.org/#format-data). Point to yours with root, annotations and images in the data set's config."
)


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's plain run-length form of an (H, W) mask: lengths down the columns, beginning with the zeros."""
    flat = np.asarray(mask, dtype=bool).flatten(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    counts = ([0] if flat.size and flat[0] else []) + runs.tolist()
    return {"size": list(mask.shape), "counts": counts}


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """COCO polygons or run lengths (plain or compressed) as an (H, W) bool mask.

    Raises:
        ValueError: it is none of these, or of another size.
        MissingExtraError: (an ImportError) pycocotools is not installed.
    """
    coder = mask_coder()
    try:
        if isinstance(segmentation, Mapping):
            packed = dict(segmentation)
            if isinstance(packed["counts"], list):
                packed = coder.frPyObjects(packed, height, width)
        else:
            packed = coder.merge(coder.frPyObjects(list(segmentation), height, width))
        mask = coder.decode(packed)
    except Exception as error:  # the C code raises whatever comes
        raise ValueError(f"segmentation cannot be decoded ({type(error).__name__}: {error})") from error
    if mask.shape != (height, width):
        raise ValueError(f"segmentation is of a {mask.shape[1]}×{mask.shape[0]} image, not {width}×{height}")
    return mask.astype(bool)


def mask_coder() -> Any:
    """`pycocotools.mask`.

    Raises:
        MissingExtraError: (an ImportError) pycocotools is not installed.
    """
    with needs_extra("train", "handling masks"):
        from pycocotools import mask
    return mask


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
        DatasetError: it is no JSON file, or a list is missing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{str(path)!r} is no JSON file: {error}. {HELP}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise DatasetError(f"{str(path)!r} has no list {' nor '.join(map(repr, missing))}. {HELP}")
    return content


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, Mapping) else None


def class_numbers(
    entries: Sequence[Mapping[str, Any]], wanted: Sequence[str] | None, path: Path
) -> tuple[list[str], dict[int, int]]:
    """Class names in order, and the class number (from 1) of every category id."""
    named = {str(x["name"]): int(x["id"]) for x in entries}
    if len(named) != len(entries) or len(set(named.values())) != len(entries):
        raise DatasetError(f"{str(path)!r} has categories of the same name or id")
    for name in wanted or ():
        if name not in named:
            raise DatasetError(f"classes: {name!r} is no category of {str(path)!r}; closest: {closest(name, named)}")
    classes = list(wanted) if wanted is not None else list(named)
    return classes, {named[name]: number for number, name in enumerate(classes, start=1)}


def checked_images(entries: Sequence[Any], folder: Path, problems: Problems) -> dict[int, dict[str, Any]]:
    """Images that can be used, by id; the others are noted as problems."""
    found: dict[int, dict[str, Any]] = {}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for entry in entries:
        key, name = _get(entry, "id"), _get(entry, "file_name")
        sides = [_get(entry, "height"), _get(entry, "width")]
        if key is None or not isinstance(name, str) or not all(isinstance(x, int) and x > 0 for x in sides):
            problems.add("images without id, file_name, height or width", str(entry)[:60])
        elif key in found:
            problems.add("images with an id that another has", f"id {key}")
        elif Path(name).as_posix() not in there:
            problems.add(f"image files that are not in {str(folder)!r}", repr(name))
        else:
            found[key] = {"file_name": name, "height": sides[0], "width": sides[1]}
    return found


def checked_objects(
    entries: Sequence[Any],
    images: Mapping[int, Mapping[str, Any]],
    numbers: Mapping[int, int],
    every_category: bool,
    problems: Problems,
) -> dict[int, list[dict[str, Any]]]:
    """Objects that can be used, by the id of their image; the others are noted as problems.

    Args:
        entries: the file's annotations.
        images: as `checked_images` returned them.
        numbers: class number of every category id that is used.
        every_category: other category ids are mistakes.
        problems: what is found wrong.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for place, entry in enumerate(entries):
        example = f"annotation {_get(entry, 'id') or f'number {place}'}"
        image = images.get(_get(entry, "image_id"))
        category = _get(entry, "category_id")
        if image is None:
            problems.add(
                "annotations of images that are not listed or missing", f"{example} of {_get(entry, 'image_id')!r}"
            )
            continue
        if category not in numbers:
            if every_category:
                problems.add("annotations with an unknown category id", f"{example} with category_id {category!r}")
            continue
        box = _clipped(_get(entry, "bbox"), image["width"], image["height"])
        if box is None:
            problems.add(
                "boxes without area inside their image",
                f"{example} with bbox {_get(entry, 'bbox')!r} in {image['file_name']!r}",
            )
            continue
        mask = _get(entry, "segmentation") or None
        if mask is not None and not _decodable(mask, image["height"], image["width"]):
            problems.add("masks that cannot be decoded", example)
            continue
        crowd = bool(_get(entry, "iscrowd"))
        item = {"box": box, "label": numbers[category], "mask": mask, "crowd": crowd}
        found.setdefault(entry["image_id"], []).append(item)
    return found


def _clipped(box: Any, width: int, height: int) -> list[float] | None:
    """(left, top, width, height) as (left, top, right, bottom) inside the image; None if nothing is left."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return None
    if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in box):
        return None
    left, top = max(0.0, float(box[0])), max(0.0, float(box[1]))
    right, bottom = min(float(width), box[0] + box[2]), min(float(height), box[1] + box[3])
    return [left, top, right, bottom] if right > left and bottom > top else None


def _decodable(mask: Any, height: int, width: int) -> bool:
    """Whether a segmentation has the form of polygons or of run lengths of this size; pixels are decoded later."""
    if isinstance(mask, Mapping):
        counts = mask.get("counts")
        if list(mask.get("size") or []) != [height, width]:
            return False
        return isinstance(counts, (str, bytes)) or (isinstance(counts, list) and sum(counts) == height * width)
    if not isinstance(mask, (list, tuple)):
        return False
    return all(isinstance(x, (list, tuple)) and len(x) >= 6 and len(x) % 2 == 0 for x in mask)
