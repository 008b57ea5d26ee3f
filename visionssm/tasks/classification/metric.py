"""Accuracy of classifiers, with what figures and prediction files need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor


@METRICS.register_module()
class ClassificationMetric(BaseMetric):
    """Top-1 and top-5 accuracy in percent and mean negative log-likelihood.

    Samples with label −1 (images that could not be read) are left out and counted as `corrupt`.

    Attributes:
        rows: the predictions of the last evaluation, a dict per sample: `index`, `label`, `classes` and `scores` (best
            five), `nll`.
        confusion: (classes, classes) counts of the last evaluation, true class by predicted class.
    """

    default_prefix = ""  # None would make MMEngine warn

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.rows: list[dict[str, Any]] = []
        self.confusion: Tensor | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the predictions of one batch."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all kept predictions."""
        self.rows = results
        valid = [row for row in results if row["label"] >= 0]
        if not valid:
            raise ValueError("nothing to evaluate: the data set has no readable, labelled image")
        labels = torch.tensor([row["label"] for row in valid])
        best = torch.tensor([row["classes"] for row in valid])  # (n, 5), or as many as there are classes
        hits = best == labels[:, None]
        count = 1 + max(int(labels.max()), int(best.max()))
        self.confusion = torch.bincount(labels * count + best[:, 0], minlength=count * count).view(count, count)
        metrics = {
            "top1": 100 * hits[:, 0].double().mean().item(),
            "top5": 100 * hits.any(1).double().mean().item(),
            "nll": sum(row["nll"] for row in valid) / len(valid),
        }
        if len(valid) < len(results):
            metrics["corrupt"] = float(len(results) - len(valid))
        return metrics
