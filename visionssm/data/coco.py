"""Images with boxes and masks in COCO's format, checked as a whole before the first one is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.data.joint_transforms import build_transforms
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


class CocoInstances(Dataset):
    """A COCO-format set as torchvision's detectors take it.

    A sample is a dict: `inputs` (3, H, W) float32 in [0, 1]; `targets` with `boxes` (n, 4) left, top, right, bottom in
    pixels, `labels` (n,) from 1 in the order of `classes`, `masks` (n, H, W) uint8 (if all objects of the set
    have one) and `crowd` (n,) bool with `with_crowds`; `index` int.

    Args:
        root: folder that the next two are relative to.
        annotations: the JSON file.
        images: folder of the images.
        classes: names of categories to use, in this order; None for all, in the file's order.
        wrong: "raise" tells all mistakes at once: annotations of unknown images or categories, boxes without area or
            outside of their image, masks that cannot be decoded, missing files, doubled ids; "skip" leaves these out
            and logs how many.
        background_images: keep images that have no object; without, they count as mistakes.
        with_crowds: return crowd regions too, which evaluation ignores; training must not see them.
        transforms: transforms of `torchvision.transforms.v2` by name, `[dict(type="RandomHorizontalFlip", p=0.5), …]`.
    Raises:
        DatasetError: files are missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str,
        images: str,
        classes: Sequence[str] | None = None,
        wrong: str = "raise",
        background_images: bool = True,
        with_crowds: bool = False,
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check_files(root, annotations, images)
        self.transforms = build_transforms(transforms)
        self.folder = Path(root).expanduser() / images
        self.with_crowds = with_crowds
        path = Path(root).expanduser() / annotations
        content = read_annotations(path)
        problems = Problems()
        self.classes, numbers = _categories(content["categories"], classes, path)
        self.images = checked_images(content["images"], self.folder, problems)
        objects = checked_objects(content["annotations"], self.images, numbers, classes is None, problems)
        if not background_images:
            for key in [key for key in self.images if not objects.get(key)]:
                problems.add("images without objects", repr(self.images.pop(key)["file_name"]))
        problems.settle(repr(str(path)), wrong)
        if not self.images:
            raise DatasetError(f"{str(path)!r} names no usable image. {HELP}")
        self.keys = list(self.images)
        self.objects = objects
        self.has_masks = all(x["mask"] is not None for group in objects.values() for x in group)
        self.skipped = problems.count

    @staticmethod
    def check_available(root: str | Path, annotations: str, images: str, **_: Any) -> None:
        """Look whether the folder and the file are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        _check_files(root, annotations, images)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, without the background; number 1 is the first."""
        return {"classes": list(self.classes)}

    def sample_name(self, index: int) -> str:
        """File name."""
        return str(self.images[self.keys[index]]["file_name"])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        about = self.images[self.keys[index]]
        image = self._read(about)
        objects = [x for x in self.objects.get(self.keys[index], []) if self.with_crowds or not x["crowd"]]
        height, width = image.height, image.width
        targets: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor([x["box"] for x in objects], dtype=torch.float32).reshape(-1, 4),
                format="XYXY",  # type: ignore[arg-type]
                canvas_size=(height, width),
            ),
            "labels": torch.tensor([x["label"] for x in objects], dtype=torch.int64),
        }
        if self.has_masks:
            masks = [decode_mask(x["mask"], height, width) for x in objects]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
            targets["masks"] = tv_tensors.Mask(torch.from_numpy(stacked.astype(np.uint8)))
        if self.with_crowds:
            targets["crowd"] = torch.tensor([x["crowd"] for x in objects], dtype=torch.bool)
        inputs = to_dtype(to_image(image), torch.float32, scale=True)
        if self.transforms is not None:
            inputs, targets = self.transforms(inputs, targets)
        plain = {name: x.as_subclass(torch.Tensor) for name, x in targets.items()}
        return {"inputs": inputs.as_subclass(torch.Tensor), "targets": plain, "index": index}

    def _read(self, about: Mapping[str, Any]) -> Image.Image:
        path = self.folder / about["file_name"]
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            raise CorruptImageError(f"{error}; replace it, or remove it from the annotations") from error
        if (image.height, image.width) != (about["height"], about["width"]):
            raise CorruptImageError(
                f"image {str(path)!r} is {image.width}×{image.height}, its annotations are for "
                f"{about['width']}×{about['height']}"
            )
        return image


def _check_files(root: str | Path, annotations: str, images: str) -> None:
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


def _categories(
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
