"""Exported segmentation models applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from visionssm.data.images import as_array
from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.segmentation.base import BaseSegmenter
from visionssm.tasks.segmentation.results import PixelClasses


@dataclass(frozen=True)
class ExportedSegmenter(OfGraph, BaseSegmenter):
    """An exported segmentation model.

    Attributes:
        graph: a (1, 3, H, W) image in [0, 1] to `classes`, the (1, H, W) number of every pixel's class.
    """

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> PixelClasses:
        numbers = self.graph.output(as_array(image)[None], "classes")[0]
        if numbers.shape != (image.height, image.width) or not 0 <= numbers.min() <= numbers.max() < len(self.classes):
            raise ExportedFileError("the file gives class numbers for other pixels, or without names")
        return PixelClasses(self.classes, numbers)


def exported_segmenter(graph: Graph) -> ExportedSegmenter:
    """The segmentation model in a file."""
    return ExportedSegmenter(graph.classes(0), graph=graph)
