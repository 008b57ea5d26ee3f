"""Telling every pixel's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.drawing import class_legend, draw_classes, shown_scale, with_legend
from visionssm.engine.task import Row

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class PixelClasses:
    """Class of every pixel of an image.

    Attributes:
        classes: all class names of the model.
        numbers: (H, W) class numbers.
    """

    classes: Sequence[str]
    numbers: np.ndarray

    def rows(self) -> list[Row]:
        """Class and its share of the pixels, largest first."""
        return list(self._shares())

    def plain(self) -> dict[str, Any]:
        """{"classes": [{"class": …, "share": …}]}."""
        return {"classes": [{"class": name, "share": share} for name, share in self._shares()]}

    def drawn(self, image: Image.Image) -> Image.Image:
        """The image with every class but the first in a colour, and a legend."""
        drawn = draw_classes(image, self.numbers, scale=shown_scale(image))
        return with_legend(drawn, class_legend(self.classes, self.numbers))

    def _shares(self) -> list[tuple[str, float]]:
        numbers, counts = np.unique(self.numbers, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(self.classes[numbers[i]], float(counts[i] / self.numbers.size)) for i in order]


@dataclass(frozen=True)
class Segmenter:
    """A segmentation model in evaluation mode.

    Attributes:
        model: (1, 3, H, W) image in [0, 1] to (1, classes, H, W) scores.
        classes: class names.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "share")
    image_mode: ClassVar[Literal["RGB", "L"]] = "RGB"

    model: nn.Module
    classes: Sequence[str]

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size."""
        place = next(self.model.parameters()).device
        results = []
        for image in images:  # one by one, as their sizes differ
            scores = self.model(to_dtype(to_image(image), torch.float32, scale=True)[None].to(place))
            results.append(PixelClasses(self.classes, scores[0].argmax(0).cpu().numpy()))
        return results

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: see `exportable_segmentor`."""
        from visionssm.integrations.export import description, exportable_segmentor

        return exportable_segmentor(self.model, description(self.classes, input="(B, 3, H, W) in [0, 1]"))


def trained_segmenter(checkpoint: Mapping[str, Any]) -> Segmenter:
    """What training wrote, as `read_checkpoint` returned it."""
    from visionssm.engine.adapter import rebuilt  # needs the train extra, only here
    from visionssm.tasks.segmentation.model import TorchvisionSegmentor

    return Segmenter(*rebuilt(TorchvisionSegmentor, checkpoint))
