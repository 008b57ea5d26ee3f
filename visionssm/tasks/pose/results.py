"""Key points found in an image; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.keypoints import Skeleton
from visionssm.drawing import save_picture
from visionssm.engine.task import Row, Source
from visionssm.tasks.pose.boxes import Boxes
from visionssm.tasks.pose.evaluation import LEAST_SCORE, rescored
from visionssm.tasks.pose.pictures import draw_people


@dataclass(frozen=True)
class Photo:
    """An image and the file that it was read from."""

    image: Image.Image
    path: Path


@dataclass(frozen=True)
class FoundPeople:
    """Key points of everybody in an image, in the order of the boxes.

    Attributes:
        skeleton: of the points.
        names: (n,) class of everybody.
        numbers: (n,) of these classes, from 1; COCO's ids of categories in the simplest case.
        boxes: (n, 4) left, top, right, bottom in pixels.
        scores: (n,) of everybody: that of the box times the mean of those of the points.
        points: (n, K, 3) x, y and score.
    """

    skeleton: Skeleton
    names: Sequence[str]
    numbers: Sequence[int]
    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray

    def rows(self) -> list[Row]:
        """Person, name of the point, x, y and score of every point."""
        return [
            (number, name, round(x, 1), round(y, 1), score)
            for number, person in enumerate(self.points.tolist(), start=1)
            for name, (x, y, score) in zip(self.skeleton.names, person, strict=True)
        ]

    def plain(self) -> dict[str, Any]:
        """{"objects": [COCO's result with `category_id`, `keypoints` (x1, y1, score1, …), `score`; `class`, `box`]}."""
        return {
            "objects": [
                {
                    "category_id": self.numbers[place],
                    "keypoints": self.points[place].reshape(-1).tolist(),
                    "score": float(self.scores[place]),
                    "class": self.names[place],
                    "box": self.boxes[place].tolist(),
                }
                for place in range(len(self.points))
            ]
        }

    def save(self, folder: Path, source: Source) -> None:
        """Write the image with boxes and skeletons."""
        names = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        drawn = draw_people(
            source.sample.image, list(self.points), self.skeleton, self.boxes.tolist(), names, threshold=LEAST_SCORE
        )
        save_picture(drawn, folder / f"{source.name}.png")


def found_people(skeleton: Skeleton, classes: Sequence[str], boxes: Boxes, points: np.ndarray) -> FoundPeople:
    """Key points of everybody in these boxes, with scores.

    Args:
        skeleton: of the points.
        classes: names of what has them; the first one is that of boxes without a class.
        boxes: in which the points were looked for.
        points: (n, K, 3) x, y and score.
    """
    names = [name or classes[0] for name in boxes.names]
    numbers = [classes.index(name) + 1 for name in names]
    return FoundPeople(skeleton, names, numbers, boxes.places, rescored(boxes.scores, points[..., 2]), points)
