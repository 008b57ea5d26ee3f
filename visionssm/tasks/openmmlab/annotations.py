"""Check of the annotations of mmdet's and mmseg's data sets, before training and with all problems at once.

mmdet silently leaves out what it cannot use, and both stop in the middle of an epoch when a file is missing.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from visionssm.data.coco import (
    HELP,
    LARGEST,
    UNDECODABLE,
    UNREADABLE,
    category_names,
    checked_images,
    checked_objects,
    read_annotations,
)
from visionssm.data.errors import DatasetError
from visionssm.data.images import ImageHeader, UnreadableImageError, inspect_images
from visionssm.data.label_images import check_pair, class_numbers_of, odd_numbers, some
from visionssm.data.masks import is_number
from visionssm.data.problems import Mistake, Problems, checked_classes

INSPECTED = 100
"""Label images whose numbers are looked at."""

REMEDY = "Mend the files, or take the entries out of the annotation file; mmdet cannot leave them out by itself."

CHOICES = (
    "color_type='color' (as shown) or 'color_ignore_orientation' (as stored) of LoadImageFromFile in the pipelines"
)

MALFORMED = "annotations without id, image_id, category_id, area or a bbox of four numbers, or with an id twice"

STORED = (
    "images that viewers turn (EXIF orientation), whose annotations are of the pixels as stored (set "
    "color_type='color_ignore_orientation' of LoadImageFromFile in the pipelines)"
)

_logger = logging.getLogger(__name__)


def check_annotations(dataset: Mapping[str, Any], scope: str) -> None:
    """Look through a COCO-format set of mmdet or a set of label images of mmseg; other kinds are not looked at.

    Objects that mmdet leaves out (unknown categories, boxes without area) are logged with counts, and unreadable images
    where the pipeline takes others in their place (`LoadImageFromFile` with `ignore_empty=True`, in training).

    Args:
        dataset: its config, whose files are there.
        scope: "mmdet" or "mmseg", the present default scope.
    Raises:
        DatasetError: image or label files are missing, damaged or of another size than annotated, images have no size
            or one id, it is not known which way round annotations are, masks cannot be decoded, the file's categories
            are not the classes of the data set in their order, or label images have colours or numbers that no class
            has.
    """
    if dataset.get("backend_args"):  # files elsewhere
        return
    for inner in (dataset.get("dataset"), *(dataset.get("datasets") or ())):  # of RepeatDataset, ConcatDataset, …
        if isinstance(inner, Mapping):
            check_annotations(inner, scope)
    datasets = importlib.import_module(f"{scope}.datasets")
    with DATASETS.switch_scope_and_registry(scope) as registry:
        target = registry.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
        if not isinstance(target, type):
            return
        named = (dataset.get("metainfo") or {}).get("classes")
        if isinstance(named, str) and not Path(named).is_file():  # MMEngine reads the names from a file
            checked_classes(named)
        build = {**dataset, "lazy_init": True, "pipeline": []}
        if scope == "mmdet" and _reads_coco(target, datasets.CocoDataset):
            _check_coco(registry.build(build), _Loading.of(dataset))
        elif scope == "mmseg" and issubclass(target, datasets.BaseSegDataset):
            _check_labels(registry.build(build), _Loading.of(dataset))


def _reads_coco(kind: type, coco: Any) -> bool:
    """Whether a class reads COCO's format itself; LVIS, panoptic and other sets change it."""
    return (
        issubclass(kind, coco)
        and kind.load_data_list is coco.load_data_list  # type: ignore[attr-defined]
        and kind.parse_data_info is coco.parse_data_info  # type: ignore[attr-defined]
    )


@dataclass(frozen=True)
class _Loading:
    """How a pipeline loads images.

    Attributes:
        orientation: "upright" or "stored" where the pipeline says so, None where it does not: they are upright then.
        replaces: images that cannot be read give place to others.
        masks: every object needs a mask.
    """

    orientation: str | None
    replaces: bool
    masks: bool

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> _Loading:
        """Of the steps that load images and annotations, or their defaults."""
        steps: dict[str, Mapping[str, Any]] = {}
        for step in dataset.get("pipeline") or ():
            kind = step.get("type") if isinstance(step, Mapping) else None
            name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
            steps.setdefault(name.split(".")[-1], step)
        images, labels = (steps.get(name, {}) for name in ("LoadImageFromFile", "LoadAnnotations"))
        colour = images.get("color_type")
        stored = colour == "unchanged" or str(colour).endswith("ignore_orientation")
        return cls(
            None if colour is None else "stored" if stored else "upright",
            bool(images.get("ignore_empty")) and not dataset.get("test_mode"),
            bool(labels.get("with_mask")),
        )


def _check_coco(dataset: Any, loading: _Loading) -> None:
    path, folder = Path(dataset.ann_file), Path(dataset.data_prefix["img"])
    content = read_annotations(path)
    classes = list(dataset.metainfo["classes"])
    names = list(category_names(content["categories"], path))
    lacking = [name for name in classes if name not in names]
    if lacking:
        raise DatasetError(
            f"{str(path)!r} has no category {', '.join(map(repr, lacking[:5]))}{', …' if len(lacking) > 5 else ''}, "
            f"which the data set's classes name; its categories are {', '.join(map(repr, names[:5]))}"
            f"{', …' if len(names) > 5 else ''}. Set metainfo=dict(classes=(…)) in the data set's config."
        )
    used = [name for name in names if name in classes]
    if used != classes:  # mmdet numbers them in the file's order, whatever the classes say
        raise DatasetError(
            f"{str(path)!r} has the categories in another order than the data set's classes, so mmdet would mix them "
            f"up. Set metainfo=dict(classes={tuple(used[:5])!r}{'…' if len(used) > 5 else ''}), the file's order."
        )
    fatal, left_out = Problems(), Problems()
    root = Path(dataset.data_root or folder)
    images = checked_images(
        content["images"], folder, fatal, root=root, orientation=loading.orientation, choices=CHOICES
    )
    if loading.orientation is None:
        for about in images.values():
            if not about["upright"]:
                fatal.add(STORED, repr(about["file_name"]))
    if loading.replaces and UNREADABLE in fatal.found:
        left_out.found[UNREADABLE] = fatal.found.pop(UNREADABLE)
    numbers = {key: number for number, key in enumerate(category_names(content["categories"], path).values(), start=1)}
    if not fatal.count:  # otherwise the annotations of those images would be reported too
        for example in _malformed(content["annotations"]):
            fatal.add(MALFORMED, example)
        objects = checked_objects(content["annotations"], images, numbers, True, left_out)
        if UNDECODABLE in left_out.found:  # mmdet would meet them in the middle of an epoch
            fatal.found[UNDECODABLE] = left_out.found.pop(UNDECODABLE)
        for key, group in objects.items() if loading.masks else ():
            for item in group:
                if item["mask"] is None:
                    example = f"annotation {item['id']!r} in {images[key]['file_name']!r}"
                    fatal.add("objects without a mask (the pipeline has with_mask=True)", example)
    fatal.settle(repr(str(path)), "raise", REMEDY)
    if not images:
        raise DatasetError(f"{str(path)!r} names no usable image. {HELP}")
    if left_out.count:
        _logger.warning("%s: mmdet leaves out %d objects:\n%s", path, left_out.count, left_out)


def _malformed(entries: Sequence[Any]) -> Iterator[str]:
    """Annotations that mmdet, which looks at nothing, would end at with a KeyError or a TypeError."""
    seen: set[Any] = set()
    for place, entry in enumerate(entries):
        plain = entry if isinstance(entry, Mapping) else {}
        key, box = plain.get("id"), plain.get("bbox")
        whole = all(isinstance(plain.get(name), (int, str)) for name in ("id", "image_id", "category_id"))
        numbers: list[Any] = [*box, plain.get("area")] if isinstance(box, list) and len(box) == 4 else [None]
        boxed = all(is_number(x) and abs(x) < LARGEST for x in numbers)
        if not whole or not boxed or key in seen:
            yield f"annotation {key!r}" if isinstance(key, (int, str)) else f"annotation number {place}"
        if whole:
            seen.add(key)


def _check_labels(dataset: Any, loading: _Loading) -> None:
    folder = dataset.data_prefix["img_path"]
    pairs = [(Path(row["img_path"]), row.get("seg_map_path")) for row in dataset.load_data_list()]
    if not pairs:
        raise DatasetError(f"{str(folder)!r} holds no image whose name ends in {dataset.img_suffix!r} (img_suffix)")
    problems, left_out = Problems(), Problems()
    headers = inspect_images([image for image, _ in pairs])
    label_headers = iter(inspect_images([label for _, label in pairs if label is not None]))
    for place, ((image, label), header) in enumerate(zip(pairs, headers, strict=True)):
        label_header = header if label is None else next(label_headers)
        try:
            if not image.is_file():
                raise Mistake("missing images")
            if isinstance(header, UnreadableImageError):
                raise Mistake(UNREADABLE, header.reason)
            if label is not None:
                _check_label(dataset, Path(label), header, label_header, loading, place < INSPECTED)
        except Mistake as mistake:
            among = left_out if loading.replaces and mistake.kind == UNREADABLE else problems
            wrong = Path(label) if label is not None and mistake.kind.startswith("label images") else image
            among.note(wrong.name, mistake)
    problems.settle(repr(str(folder)), "raise", "Mend the files, or move them elsewhere.")
    if left_out.count:
        _logger.warning("%s: %d images are left out:\n%s", folder, left_out.count, left_out)


def _check_label(
    dataset: Any,
    path: Path,
    image: ImageHeader,
    label: ImageHeader | UnreadableImageError,
    loading: _Loading,
    look_at_numbers: bool,
) -> None:
    """Look whether a label image fits its image and the classes.

    Raises:
        Mistake: it does not.
    """
    if not path.is_file():
        raise Mistake(f"images without label image in {str(path.parent)!r}")
    upright, size = check_pair(image, label, loading.orientation, CHOICES)
    if 1 in size:  # mmseg takes that side away
        raise Mistake("label images with a side of one pixel, which mmseg cannot load")
    if loading.orientation is None and not upright:
        raise Mistake(STORED)
    if look_at_numbers:
        try:
            numbers = class_numbers_of(path)
        except ValueError as error:
            raise Mistake("label images that cannot be read", str(error)) from error
        odd = odd_numbers(numbers, _known_numbers(dataset))
        if odd:
            raise Mistake("label images with numbers that no class has", some(odd))


def _known_numbers(dataset: Any) -> set[int]:
    """Numbers that label images may have, as they are in the files: of classes, ignored, and those mapped to one."""
    first = 1 if dataset.reduce_zero_label else 0
    known = set(range(first, first + len(dataset.metainfo["classes"]))) | {dataset.ignore_index, *range(first)}
    return known | set(dataset.label_map or ())
