"""Intersection over union of pixel classes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.drawing import beside, class_legend, draw_classes, shown_scale, with_legend, with_title
from visionssm.engine.task import Metric
from visionssm.files import complete_or_absent, write_csv
from visionssm.tasks.segmentation.data import IGNORED
from visionssm.tasks.segmentation.results import label_image


def confusion_of(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """(classes, classes) numbers of pixels, true class by predicted class, without the ignored ones."""
    known = truth != IGNORED
    joint = truth[known] * num_classes + predicted[known]
    return torch.bincount(joint.flatten(), minlength=num_classes**2).view(num_classes, num_classes).cpu()


class SegmentationMetric(Metric):
    """Mean intersection over union (`miou`), mean accuracy of the classes and accuracy of all pixels, between 0 and 1.

    Intersections and unions are sums over all images; classes that occur neither in truth nor in predictions are left
    out of the means. Images that could not be read (index −1) are left out and counted as `corrupt`.

    Args:
        keep: images of the data set that are kept for drawing.

    Attributes:
        confusion: (classes, classes) numbers of pixels of the last evaluation, true class by predicted class.
        pictures: index and picture of the first images: image, true classes, predicted classes.
    """

    formats: ClassVar[tuple[str, ...]] = ("", ".csv")

    def __init__(self, keep: int = 8) -> None:
        super().__init__()
        self.keep = keep
        self.confusion: Tensor | None = None
        self.rows: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the counts of one batch, and the pixels of the first images of the data set."""
        for row in data_samples:
            shown = ("image", "truth", "predicted") if 0 <= row["index"] < self.keep else ()
            kept = {name: row[name] for name in ("index", "confusion", *shown)}
            if self.complete:  # as files, which take little memory
                kept["labels"] = _png(label_image(row["predicted"], len(row["confusion"])))
            self.results.append(kept)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all images."""
        self.rows = sorted((row for row in results if row["index"] >= 0), key=lambda row: row["index"])
        shown = [row for row in self.rows if "image" in row]
        classes = list((self.dataset_meta or {}).get("classes") or [])
        self.pictures = [(row["index"], _picture(row, classes)) for row in shown]
        valid = [row["confusion"] for row in self.rows]
        if not valid:
            raise ValueError("nothing to evaluate: the data set has no readable image")
        self.confusion = torch.stack(valid).sum(0)
        counts = self.confusion.double()
        hits, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        present = (true + predicted) > 0
        iou = (hits / (true + predicted - hits).clamp(min=1))[present]
        accuracy = (hits / true.clamp(min=1))[true > 0]
        metrics = {
            "miou": iou.mean().item(),
            "mean_accuracy": accuracy.mean().item(),
            "pixel_accuracy": (hits.sum() / counts.sum().clamp(min=1)).item(),
        }
        if len(valid) < len(results):
            metrics["corrupt"] = float(len(results) - len(valid))
        return metrics

    def write(self, path: Path, dataset: Any) -> None:
        """Write a label image of every image and a table into a folder, or the table alone as .csv.

        The table has a line for every class that an image has or was found to have: predicted, true and correct pixels.
        """
        classes = list((getattr(dataset, "metainfo", None) or {}).get("classes") or [])
        sample_name = getattr(dataset, "sample_name", str)
        table = path
        if path.suffix.lower() != ".csv":
            table = path / "predictions.csv"
            for row in self.rows:
                place = path / Path(sample_name(row["index"])).with_suffix(".png")
                place.parent.mkdir(parents=True, exist_ok=True)
                with complete_or_absent(place) as temporary:
                    temporary.write_bytes(row["labels"])
        lines = (line for row in self.rows for line in _lines(row["confusion"], sample_name(row["index"]), classes))
        write_csv(table, ("sample", "class", "predicted_pixels", "true_pixels", "correct_pixels"), lines)


def _lines(confusion: Tensor, sample: str, classes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    counts = zip(confusion.sum(0).tolist(), confusion.sum(1).tolist(), confusion.diag().tolist(), strict=True)
    for number, (predicted, true, correct) in enumerate(counts):
        if predicted or true:
            name = classes[number] if number < len(classes) else f"class {number}"
            yield sample, name, predicted, true, correct


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _picture(row: Mapping[str, np.ndarray], classes: Sequence[str]) -> Image.Image:
    image = Image.fromarray(row["image"])
    scale = shown_scale(image)
    panels = {
        "image": np.zeros_like(row["predicted"]),
        "truth": row["truth"],
        "predicted": row["predicted"],
    }
    drawn = beside([with_title(draw_classes(image, x, scale=scale), title) for title, x in panels.items()])
    return with_legend(drawn, class_legend(classes, np.concatenate([row["truth"], row["predicted"]])))
