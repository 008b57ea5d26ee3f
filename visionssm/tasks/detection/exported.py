"""Exported detectors applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visionssm.data.images import as_array
from visionssm.engine.exported import ExportedFileError, Graph, named
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.detection.base import BaseDetector
from visionssm.tasks.detection.results import Detection


@dataclass(frozen=True)
class ExportedDetector(OfGraph, BaseDetector):
    """An exported detector.

    Attributes:
        graph: a (1, 3, H, W) image in [0, 1] to `boxes`, `scores`, `labels` and perhaps `masks`.
    """

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score reaches the threshold."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> Detection:
        found = self.graph(as_array(image)[None])
        boxes, scores, labels = (named(found, name) for name in ("boxes", "scores", "labels"))
        certain = scores >= self.threshold
        numbers = numbers_of(labels[certain], self.classes, first=1)
        masks = found["masks"][certain, 0] > 0.5 if "masks" in found else None
        return Detection(self.classes, numbers, scores[certain], boxes[certain], masks)


def exported_detector(graph: Graph) -> ExportedDetector:
    """The detector in a file."""
    return ExportedDetector(graph.classes(1), graph=graph)


def numbers_of(labels: np.ndarray, classes: Sequence[str], first: int) -> np.ndarray:
    """Numbers of classes as a file gives them, from 0.

    Raises:
        ExportedFileError: one has no name.
    """
    numbers: np.ndarray = labels.astype(np.int64) - first
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ExportedFileError(f"the file gives class numbers for which it has no names: {labels.tolist()[:20]}")
    return numbers
