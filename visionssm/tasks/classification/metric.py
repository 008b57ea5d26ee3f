"""Accuracy of classifiers, with what figures and prediction files need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.drawing import beside, shown_scale, with_title
from visionssm.engine.task import Metric
from visionssm.files import write_csv


class ClassificationMetric(Metric):
    """Top-1 and top-5 accuracy in percent and mean negative log-likelihood.

    Samples with label −1 (images that could not be read) are left out and counted as `corrupt`. Of at most five classes
    the best five are always right, and there is no `top5`.

    Attributes:
        rows: the predictions of the last evaluation, a dict per sample: `index`, `label`, `classes` and `scores` (best
            five), `nll`.
        confusion: (classes, classes) counts of the last evaluation, true class by predicted class.

    Args:
        keep: images of the data set that are kept for drawing.
    """

    formats: ClassVar[tuple[str, ...]] = (".csv",)

    def __init__(self, keep: int = 0) -> None:
        super().__init__()
        self.keep = keep
        self.rows: list[dict[str, Any]] = []
        self.confusion: Tensor | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the predictions of one batch, and the first images of the data set."""
        for place, row in enumerate(data_samples):
            kept = dict(row)
            if row.get("index", self.keep) < self.keep:
                kept["image"] = self._levels(data_batch["inputs"][place])
            self.results.append(kept)

    def _levels(self, image: Tensor) -> np.ndarray:
        """(H, W, 3) levels of a normalised (C, H, W) image."""
        about = (self.dataset_meta or {}).get("input") or {}
        channels = len(image)
        mean, std = (
            torch.tensor(about.get(key) or [default] * channels) for key, default in (("mean", 0.0), ("std", 1.0))
        )
        plain = image.detach().cpu().float() * std[:channels, None, None] + mean[:channels, None, None]
        return (plain.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all kept predictions."""
        self.rows = results
        self.pictures = [(row["index"], self._picture(row)) for row in results if "image" in row]
        valid = [row for row in results if row["label"] >= 0]
        if not valid:
            raise ValueError("nothing to evaluate: the data set has no readable, labelled image")
        labels = torch.tensor([row["label"] for row in valid])
        best = torch.tensor([row["classes"] for row in valid])  # (n, 5), or as many as there are classes
        hits = best == labels[:, None]
        count = 1 + max(int(labels.max()), int(best.max()))
        self.confusion = torch.bincount(labels * count + best[:, 0], minlength=count * count).view(count, count)
        metrics = {"top1": 100 * hits[:, 0].double().mean().item()}
        classes = (self.dataset_meta or {}).get("classes")
        if classes is None or len(classes) > 5:
            metrics["top5"] = 100 * hits.any(1).double().mean().item()
        metrics["nll"] = sum(row["nll"] for row in valid) / len(valid)
        if len(valid) < len(results):
            metrics["corrupt"] = float(len(results) - len(valid))
        return metrics

    def _picture(self, row: Mapping[str, Any]) -> Image.Image:
        image = Image.fromarray(row["image"])
        scale = shown_scale(image)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        names = (self.dataset_meta or {}).get("classes")
        truth = "?" if row["label"] < 0 else _name(names, row["label"])
        told = f"{_name(names, row['classes'][0])} {row['scores'][0]:.2f}, true: {truth}"
        return beside([with_title(image, told)])

    def write(self, path: Path, dataset: Any) -> None:
        """Write a line per sample: name, label, predicted, correct, then the best classes and their scores."""
        names = (getattr(dataset, "metainfo", None) or {}).get("classes")
        sample_name = getattr(dataset, "sample_name", str)
        ranks = range(1, len(self.rows[0]["classes"]) + 1)
        header = [
            "sample",
            "label",
            "predicted",
            "correct",
            *(f"{x}_{rank}" for rank in ranks for x in ("class", "score")),
        ]
        lines = []
        for row in self.rows:
            if row["label"] < 0:
                lines.append([sample_name(row["index"]), *[""] * (len(header) - 1)])
                continue
            best = [x for number, score in zip(row["classes"], row["scores"]) for x in (_name(names, number), score)]
            known = [
                _name(names, row["label"]),
                _name(names, row["classes"][0]),
                int(row["classes"][0] == row["label"]),
            ]
            lines.append([sample_name(row["index"]), *known, *best])
        write_csv(path, header, lines)


def _name(classes: Sequence[str] | None, number: int) -> str:
    return classes[number] if classes else str(number)
