"""What models of mmdet and mmseg find in test data, written for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from pycocotools import mask as coder

from visionssm.drawing import save_picture
from visionssm.engine.errors import ConfigError
from visionssm.files import complete_or_absent, write_csv
from visionssm.tasks.openmmlab.predictor import pixel_classes_of
from visionssm.tasks.segmentation.results import label_image


class CocoResultsHook(Hook):
    """Write the detections of a test as COCO's results: image and category ids of the data set, box, score, mask.

    Args:
        out: .json file.
    Raises:
        ConfigError: the file has another suffix.
    """

    priority = "LOWEST"

    def __init__(self, out: Path) -> None:
        if out.suffix.lower() != ".json":
            raise ConfigError(f"--out must be a .json file for a detector of mmdet, got {str(out)!r}")
        self.out = out
        self._found: list[list[dict[str, Any]]] = []

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Keep the detections of one batch."""
        categories = list(getattr(runner.test_loop.dataloader.dataset, "cat_ids", None) or ())
        self._found += [_coco_entries(sample, categories) for sample in outputs or ()]

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Write those of all processes."""
        everything = collect_results(self._found, len(runner.test_loop.dataloader.dataset), "cpu")
        self._found = []
        if is_main_process():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with complete_or_absent(self.out) as temporary:
                entries = [entry for image in everything or () for entry in image]
                temporary.write_text(json.dumps(entries), encoding="utf-8")


def _coco_entries(sample: Any, categories: Sequence[int]) -> list[dict[str, Any]]:
    objects = sample.pred_instances.cpu()
    entries: list[dict[str, Any]] = []
    for place in range(len(objects)):
        left, top, right, bottom = objects.bboxes[place].tolist()
        number = int(objects.labels[place])
        entry = {
            "image_id": sample.img_id,
            "category_id": categories[number] if categories else number + 1,
            "bbox": [left, top, right - left, bottom - top],
            "score": float(objects.scores[place]),
        }
        if "masks" in objects:
            packed = coder.encode(np.asfortranarray(np.asarray(objects.masks[place], dtype=np.uint8).squeeze()))
            entry["segmentation"] = {"size": list(packed["size"]), "counts": packed["counts"].decode("ascii")}
        entries.append(entry)
    return entries


class LabelImagesHook(Hook):
    """Write the pixel classes of a test: a label image for every image, named as it is, and predictions.csv.

    Args:
        out: folder.
    Raises:
        ConfigError: it has a suffix.
    """

    priority = "LOWEST"

    def __init__(self, out: Path) -> None:
        if out.suffix:
            raise ConfigError(f"--out must be a folder for a segmentor of mmseg, got {str(out)!r}")
        self.out = out
        self._lines: list[list[tuple[Any, ...]]] = []

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Write the images of one batch."""
        self.out.mkdir(parents=True, exist_ok=True)
        classes = runner.test_loop.dataloader.dataset.metainfo["classes"]
        for sample in outputs or ():
            found, name = pixel_classes_of(sample, classes), f"{Path(sample.img_path).stem}.png"
            save_picture(label_image(found.numbers, len(classes)), self.out / name)
            self._lines.append([(name, *row) for row in found.rows()])

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Write the table of all processes."""
        everything = collect_results(self._lines, len(runner.test_loop.dataloader.dataset), "cpu")
        self._lines = []
        if is_main_process():
            lines = (line for image in everything or () for line in image)
            write_csv(self.out / "predictions.csv", ("sample", "class", "share"), lines)


RESULTS: Mapping[str, Callable[[Path], Hook]] = {"mmdet": CocoResultsHook, "mmseg": LabelImagesHook}
"""The hook that writes the results of a scope's models."""
