"""Objects found in an image; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.drawing import class_colour, draw_objects, save_picture, shown_scale
from visionssm.engine.task import Row, Source


@dataclass(frozen=True)
class Detection:
    """Objects found in an image, most certain first.

    Attributes:
        classes: all class names of the model.
        numbers: (n,) class of every object, from 0.
        scores: (n,) between 0 and 1.
        boxes: (n, 4) left, top, right, bottom in pixels.
        masks: (n, H, W) bool, or None.
    """

    classes: Sequence[str]
    numbers: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None

    def rows(self) -> list[Row]:
        """Class, score and box of every object."""
        return [
            (self.classes[number], score, *(round(x, 1) for x in box))
            for number, score, box in zip(self.numbers, self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]

    def plain(self) -> dict[str, Any]:
        """{"objects": [{"class": …, "score": …, "box": [left, top, right, bottom], "pixels": area of the mask}]}."""
        objects = []
        for place, number in enumerate(self.numbers):
            entry: dict[str, Any] = {
                "class": self.classes[number],
                "score": float(self.scores[place]),
                "box": self.boxes[place].tolist(),
            }
            if self.masks is not None:
                entry["pixels"] = int(self.masks[place].sum())
            objects.append(entry)
        return {"objects": objects}

    def drawn(self, image: Image.Image) -> Image.Image:
        """The image with boxes, names, scores and masks."""
        names = [f"{self.classes[number]} {score:.2f}" for number, score in zip(self.numbers, self.scores, strict=True)]
        colours = [class_colour(int(number)) for number in self.numbers]
        return draw_objects(image, self.boxes, names, colours, self.masks, scale=shown_scale(image))

    def save(self, folder: Path, source: Source) -> None:
        """Write the drawn image."""
        save_picture(self.drawn(source.sample), folder / f"{source.name}.png")
