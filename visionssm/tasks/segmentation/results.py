"""The class of every pixel of an image; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.drawing import class_legend, draw_classes, save_picture, shown_scale, with_legend
from visionssm.engine.task import Row, Source


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

    def save(self, folder: Path, source: Source) -> None:
        """Write the drawn image."""
        save_picture(self.drawn(source.sample), folder / f"{source.name}.png")

    def save_masks(self, folder: Path, source: Source) -> None:
        """Write a label image of the image's size, as `label_image` makes it."""
        save_picture(label_image(self.numbers, len(self.classes)), folder / f"{source.name}.png")

    def _shares(self) -> list[tuple[str, float]]:
        numbers, counts = np.unique(self.numbers, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(self.classes[numbers[i]], float(counts[i] / self.numbers.size)) for i in order]


def label_image(numbers: np.ndarray, num_classes: int) -> Image.Image:
    """(H, W) class numbers as grey levels of 8 bits, or of 16 with more than 256 classes."""
    return Image.fromarray(numbers.astype(np.uint8 if num_classes <= 256 else np.uint16))
