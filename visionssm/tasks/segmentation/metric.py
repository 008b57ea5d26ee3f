"""Intersection over union of pixel classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from PIL import Image
from torch import Tensor

from visionssm.drawing import beside, class_legend, draw_classes, shown_scale, with_legend, with_title
from visionssm.tasks.segmentation.data import IGNORED


def confusion_of(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """(classes, classes) numbers of pixels, true class by predicted class, without the ignored ones."""
    known = truth != IGNORED
    joint = truth[known] * num_classes + predicted[known]
    return torch.bincount(joint.flatten(), minlength=num_classes**2).view(num_classes, num_classes).cpu()


@METRICS.register_module()
class SegmentationMetric(BaseMetric):
    """Mean intersection over union (`miou`), mean accuracy of the classes and accuracy of all pixels, between 0 and 1.

    Intersections and unions are sums over all images; classes that occur neither in truth nor in predictions are left
    out of the means. Images that could not be read (index −1) are left out and counted as `corrupt`.

    Args:
        keep: images of the data set that are kept for drawing.

    Attributes:
        confusion: (classes, classes) numbers of pixels of the last evaluation, true class by predicted class.
        pictures: index and picture of the first images: image, true classes, predicted classes.
    """

    default_prefix = ""  # None would make MMEngine warn

    def __init__(self, keep: int = 8, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.keep = keep
        self.confusion: Tensor | None = None
        self.pictures: list[tuple[int, Image.Image]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the counts of one batch, and the pixels of the first images of the data set."""
        for row in data_samples:
            shown = ("image", "truth", "predicted") if 0 <= row["index"] < self.keep else ()
            self.results.append({name: row[name] for name in ("index", "confusion", *shown)})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all images."""
        shown = sorted((row for row in results if "image" in row), key=lambda row: row["index"])
        classes = list((self.dataset_meta or {}).get("classes") or [])
        self.pictures = [(row["index"], _picture(row, classes)) for row in shown]
        valid = [row["confusion"] for row in results if row["index"] >= 0]
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
