"""COCO's average precision of detections."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from visionssm.data.coco_evaluation import coco_evaluator
from visionssm.data.masks import mask_coder
from visionssm.drawing import beside, class_colour, draw_objects, shown_scale, with_title
from visionssm.engine.task import Metric
from visionssm.files import complete_or_absent, write_csv


def plain_objects(objects: Mapping[str, Tensor]) -> dict[str, Any]:
    """Detections or targets as arrays; masks as compressed run lengths, which take little memory."""
    plain: dict[str, Any] = {name: x.detach().cpu().numpy() for name, x in objects.items() if name != "masks"}
    if "masks" in objects:
        masks = objects["masks"].detach()
        masks = (masks[:, 0] if masks.ndim == 4 else masks) > 0.5
        plain["masks"] = [mask_coder().encode(np.asfortranarray(mask)) for mask in masks.cpu().numpy().astype(np.uint8)]
    return plain


class DetectionMetric(Metric):
    """COCO's average precision, between 0 and 1.

    `box_ap` over IoU 0.5 to 0.95, `box_ap50`, `box_ap75`; with masks also `mask_ap`, `mask_ap50`, `mask_ap75`. Numbers
    without any true object are −1, as COCO's. Images that could not be read (index −1) are left out and counted as
    `corrupt`.

    Args:
        keep: images of the data set that are kept for drawing.
        threshold: least score of a drawn detection.

    Attributes:
        pictures: name and picture of the first images, true objects on the left, detections on the right.
    """

    formats: ClassVar[tuple[str, ...]] = (".json", ".csv")

    def __init__(self, keep: int = 8, threshold: float = 0.5) -> None:
        super().__init__()
        self.keep = keep
        self.threshold = threshold
        self.rows: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the detections of one batch, and the pixels of the first images of the data set."""
        for row in data_samples:
            size = row["image"].shape[:2]
            kept = dict(row) if 0 <= row["index"] < self.keep else {k: v for k, v in row.items() if k != "image"}
            self.results.append({**kept, "size": size})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all images."""
        classes = list((self.dataset_meta or {}).get("classes") or [])
        valid = self.rows = sorted((row for row in results if row["index"] >= 0), key=_index)
        if not valid:
            raise ValueError("nothing to evaluate: the data set has no readable image")
        self.pictures = [(row["index"], self._picture(row, classes)) for row in valid if "image" in row]
        kinds = {"box": "bbox"}
        if all("masks" in row["truth"] and "masks" in row["found"] for row in valid):
            kinds["mask"] = "segm"
        metrics: dict[str, float] = {}
        for name, kind in kinds.items():
            ap, ap50, ap75 = average_precision(valid, kind)
            metrics |= {f"{name}_ap": ap, f"{name}_ap50": ap50, f"{name}_ap75": ap75}
        if len(valid) < len(results):
            metrics["corrupt"] = float(len(results) - len(valid))
        return metrics

    def write(self, path: Path, dataset: Any) -> None:
        """Write the detections: .json in COCO's results format, with the data set's ids, or .csv, a line per object.

        Boxes are (left, top, width, height) in .json, as COCO's, and (left, top, right, bottom) in .csv.
        """
        classes = list((getattr(dataset, "metainfo", None) or {}).get("classes") or [])
        sample_name = getattr(dataset, "sample_name", str)
        if path.suffix.lower() == ".csv":
            header = ("sample", "class", "score", "left", "top", "right", "bottom")
            write_csv(
                path, header, (line for row in self.rows for line in _lines(row, sample_name(row["index"]), classes))
            )
            return
        image_ids = getattr(dataset, "keys", None) or range(len(dataset))
        category_ids = getattr(dataset, "category_ids", None) or range(1, len(classes) + 1)
        found = []
        for row in self.rows:
            for entry in _entries([row], "found"):
                about = {"image_id": image_ids[row["index"]], "category_id": category_ids[entry["category_id"] - 1]}
                found.append({**about, "bbox": entry["bbox"], "score": entry["score"], **_mask(entry)})
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")

    def _picture(self, row: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
        image = Image.fromarray(row["image"])
        likely = row["found"]["scores"] >= self.threshold
        found = select(row["found"], likely)
        return beside(
            [
                with_title(picture_of(image, row["truth"], classes), "truth"),
                with_title(picture_of(image, found, classes), f"detected (score >= {self.threshold:g})"),
            ]
        )


def _lines(row: Mapping[str, Any], sample: str, classes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    found = row["found"]
    for label, score, box in zip(
        found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
    ):
        yield sample, classes[label - 1] if label <= len(classes) else f"class {label - 1}", score, *box


def _mask(entry: Mapping[str, Any]) -> dict[str, Any]:
    """COCO's compressed mask of an entry as text, where it has one."""
    if "segmentation" not in entry:
        return {}
    counts = entry["segmentation"]["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"segmentation": {"size": list(entry["segmentation"]["size"]), "counts": text}}


def _index(row: Mapping[str, Any]) -> int:
    return int(row["index"])


def select(objects: Mapping[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Those of the plain objects that a bool mask chooses."""
    return {
        name: [x for x, yes in zip(items, chosen, strict=True) if yes] if isinstance(items, list) else items[chosen]
        for name, items in objects.items()
    }


def picture_of(image: Image.Image, objects: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
    """An image with plain objects drawn on it; scores where there are any."""
    numbers = [int(label) - 1 for label in objects["labels"]]
    names = [classes[number] if number < len(classes) else f"class {number}" for number in numbers]
    if "scores" in objects:
        names = [f"{name} {score:.2f}" for name, score in zip(names, objects["scores"], strict=True)]
    masks = None
    if "masks" in objects:
        masks = np.array([mask_coder().decode(x) for x in objects["masks"]], dtype=bool)
    colours = [class_colour(number) for number in numbers]
    return draw_objects(image, objects["boxes"], names, colours, masks, scale=shown_scale(image))


def average_precision(rows: Sequence[Mapping[str, Any]], kind: str) -> tuple[float, float, float]:
    """COCO's AP, AP50 and AP75 of `bbox` or `segm`, of rows with `size`, `truth` and `found`."""
    mask_coder()  # tells the extra if pycocotools is missing
    index, evaluator = coco_evaluator()
    truth = index()
    labels = sorted({int(label) for row in rows for part in ("truth", "found") for label in row[part]["labels"]})
    truth.dataset = {
        "info": {},
        "images": [
            {"id": number, "height": row["size"][0], "width": row["size"][1]} for number, row in enumerate(rows)
        ],
        "annotations": _entries(rows, "truth"),
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }
    found = _entries(rows, "found")
    if not found:
        counted = any(not entry["iscrowd"] for entry in truth.dataset["annotations"])
        return (0.0, 0.0, 0.0) if counted else (-1.0, -1.0, -1.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        detected = truth.loadRes(found)
        evaluation = evaluator(truth, detected, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75 = evaluation.stats[:3]
    return float(ap), float(ap50), float(ap75)


def _entries(rows: Sequence[Mapping[str, Any]], part: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image, row in enumerate(rows):
        objects = row[part]
        for number, (left, top, right, bottom) in enumerate(objects["boxes"].tolist()):
            entry: dict[str, Any] = {
                "id": len(entries) + 1,
                "image_id": image,
                "category_id": int(objects["labels"][number]),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(objects["crowd"][number]) if "crowd" in objects else 0,
            }
            if "scores" in objects:
                entry["score"] = float(objects["scores"][number])
            if "masks" in objects:
                entry["segmentation"] = objects["masks"][number]
                entry["area"] = float(mask_coder().area(objects["masks"][number]))
            entries.append(entry)
    return entries
