"""Wrong annotations in data sets of mmdet and mmseg, told all at once before training.

mmdet leaves out in silence what it cannot use and both stop in the middle of an epoch at a missing file.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from visionssm.data.coco import checked_images, checked_objects, read_annotations
from visionssm.data.errors import DatasetError
from visionssm.data.problems import Problems

INSPECTED = 100
"""Label images whose numbers are looked at."""

_logger = logging.getLogger(__name__)


def check_annotations(dataset: Mapping[str, Any], scope: str) -> None:
    """Look through a COCO-format set of mmdet or a set of label images of mmseg; other kinds are not looked at.

    Objects that mmdet leaves out (unknown categories, boxes without area, undecodable masks) are logged with counts.

    Args:
        dataset: its config, whose files are there.
        scope: "mmdet" or "mmseg", the present default scope.
    Raises:
        DatasetError: image or label files are missing, images have no size or one id, the file's categories are not
            the classes of the data set in their order, or label images have numbers that no class has.
    """
    if dataset.get("backend_args"):  # files elsewhere
        return
    datasets = importlib.import_module(f"{scope}.datasets")
    kind, check = (datasets.CocoDataset, _check_coco) if scope == "mmdet" else (datasets.BaseSegDataset, _check_labels)
    with DATASETS.switch_scope_and_registry(scope) as registry:
        target = registry.get(dataset["type"]) if isinstance(dataset["type"], str) else dataset["type"]
        if isinstance(target, type) and issubclass(target, kind):
            check(registry.build({**dataset, "lazy_init": True, "pipeline": []}))


def _check_coco(dataset: Any) -> None:
    path, folder = Path(dataset.ann_file), Path(dataset.data_prefix["img"])
    content = read_annotations(path)
    classes = list(dataset.metainfo["classes"])
    names = [category["name"] for category in content["categories"]]
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
    images = checked_images(content["images"], folder, fatal)
    numbers = {category["id"]: number for number, category in enumerate(content["categories"], start=1)}
    if not fatal.count:  # else the annotations of those images would be told too
        checked_objects(content["annotations"], images, numbers, True, left_out)
    fatal.settle(repr(str(path)), "raise")
    if left_out.count:
        _logger.warning("%s: mmdet leaves out %d objects:\n%s", path, left_out.count, left_out)


def _check_labels(dataset: Any) -> None:
    folder = dataset.data_prefix["img_path"]
    pairs = [(Path(row["img_path"]), row.get("seg_map_path")) for row in dataset.load_data_list()]
    if not pairs:
        raise DatasetError(f"{str(folder)!r} holds no image whose name ends in {dataset.img_suffix!r} (img_suffix)")
    problems = Problems()
    for place, (image, label) in enumerate(pairs):
        if not image.is_file():
            problems.add("missing images", repr(image.name))
        elif label is not None and not Path(label).is_file():
            problems.add(f"images without label image in {str(Path(label).parent)!r}", repr(image.name))
        elif label is not None and place < INSPECTED:
            odd = _odd_numbers(dataset, Path(label))
            if odd:
                told = ", ".join(map(str, odd[:5])) + (", …" if len(odd) > 5 else "")
                problems.add("label images with numbers that no class has", f"{Path(label).name!r} ({told})")
    problems.settle(repr(str(folder)), "raise")


def _odd_numbers(dataset: Any, path: Path) -> list[int]:
    """Numbers in a label image that are neither a class nor ignored, as they are in the file."""
    with Image.open(path) as image:
        found = set(np.unique(np.asarray(image)).tolist())
    first = 1 if dataset.reduce_zero_label else 0
    known = set(range(first, first + len(dataset.metainfo["classes"]))) | {dataset.ignore_index, *range(first)}
    known |= set(dataset.label_map or ())
    return sorted(found - known)
