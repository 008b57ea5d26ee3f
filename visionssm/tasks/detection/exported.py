"""Exported detectors applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from visionssm.data.images import MAX_DECODED_PIXELS, Mode, as_array, read_image
from visionssm.engine.exported import ExportedFileError, Graph, named
from visionssm.tasks.detection.results import Detection


@dataclass(frozen=True)
class ExportedDetector:
    """An exported detector.

    Attributes:
        graph: a (1, 3, H, W) image in [0, 1] to `boxes`, `scores`, `labels` and perhaps `masks`.
        classes: class names; the first has the number 1 in the file.
        threshold: least score of an object that is reported.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "score", "left", "top", "right", "bottom")
    image_mode: ClassVar[Mode] = "RGB"
    model: ClassVar[None] = None

    graph: Graph
    classes: Sequence[str]
    threshold: float = 0.5

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, max_pixels=MAX_DECODED_PIXELS)

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
    return ExportedDetector(graph, graph.classes(1))


def numbers_of(labels: np.ndarray, classes: Sequence[str], first: int) -> np.ndarray:
    """Numbers of classes as a file gives them, from 0.

    Raises:
        ExportedFileError: one has no name.
    """
    numbers: np.ndarray = labels.astype(np.int64) - first
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ExportedFileError(f"the file gives class numbers for which it has no names: {labels.tolist()[:20]}")
    return numbers
