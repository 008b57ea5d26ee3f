"""An exported Mamba-YOLO applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visionssm.data.images import as_array
from visionssm.data.suppression import OVERLAP, THRESHOLD, kept_boxes
from visionssm.engine.exported import ExportedFileError, Graph, named
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.detection.exported import numbers_of
from visionssm.tasks.detection.results import Detection
from visionssm.tasks.yolo.base import BaseYolo
from visionssm.tasks.yolo.letterbox import GREY, check_size, filled, fitted


@dataclass(frozen=True)
class ExportedYolo(OfGraph, BaseYolo):
    """An exported Mamba-YOLO, before or after overlapping boxes are left out.

    Of a file that was exported without --nms a point has its best class alone, and overlapping boxes are left out here.

    Attributes:
        graph: (1, 3, H, W) images in [0, 1] to `boxes`, `scores` and `labels`.
        multiple: of which the sides of the images that the graph sees are multiples.
        least: score that objects in the file exceed already.
    """

    multiple: int = 32
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.threshold < self.least:
            raise ValueError(
                f"threshold={self.threshold:g} is below {self.least:g}, under which this file has left objects out "
                "already: export it without --nms"
            )

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score exceeds the threshold."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> Detection:
        inputs, scale = self._letterboxed(image)
        found = self.graph(inputs[None])
        boxes, scores, labels = (named(found, name).reshape(-1, *tail) for name, tail in _OUTPUTS)
        if not len(boxes) == len(scores) == len(labels):
            raise ExportedFileError("the file gives other numbers of boxes, scores and labels")
        certain = np.flatnonzero(scores > self.threshold)
        certain = certain[kept_boxes(boxes[certain], scores[certain], labels[certain], OVERLAP)]
        numbers = numbers_of(labels[certain], self.classes, first=0)
        largest = np.array([image.width, image.height] * 2, np.float32)
        outside = np.minimum((boxes[certain] / scale).clip(0), largest)
        return Detection(self.classes, numbers, scores[certain], outside, None)

    def _letterboxed(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """(3, H', W') of an image, filled up with grey at the right and at the bottom, and the scales of x, y, x, y."""
        pixels = as_array(image)
        height, width = fitted(image.height, image.width, self.size)
        if pixels.shape[1:] != (height, width):  # Pillow scales numbers as PyTorch's antialiased interpolation
            pixels = np.stack([_scaled(channel, height, width) for channel in pixels]).clip(0, 1)
        below, across = self.graph.fixed_sides or filled(height, width, self.multiple)
        if below < height or across < width:
            raise ValueError(f"{self.graph.path.name} is for images of {across}×{below} pixels: export with --dynamic")
        filling = ((0, 0), (0, below - height), (0, across - width))
        scale = np.array([width / image.width, height / image.height] * 2, np.float32)
        return np.pad(pixels, filling, constant_values=GREY), scale


_OUTPUTS: Sequence[tuple[str, tuple[int, ...]]] = (("boxes", (4,)), ("scores", ()), ("labels", ()))


def _scaled(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR))


def exported_yolo(graph: Graph) -> ExportedYolo:
    """The detector in a file.

    Raises:
        ExportedFileError: it does not say its size or its classes.
    """
    size, multiple = graph.fact("size"), graph.number("multiple", 1, 1024, whole=True)
    graph.made(lambda: check_size(size), "its size")
    least = graph.number("threshold", 0, 1) if "threshold" in graph.about else 0.0
    return ExportedYolo(graph.classes(0), size, max(least, THRESHOLD), multiple, least, graph=graph)
