"""COCO's average precision of key points, and how far they are off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visionssm.data.coco import read_listed
from visionssm.data.errors import CorruptImageError
from visionssm.drawing import beside, with_title
from visionssm.engine.task import Metric
from visionssm.files import complete_or_absent, write_csv
from visionssm.tasks.pose.data import FROM_ANNOTATIONS, Key
from visionssm.tasks.pose.evaluation import (
    DUPLICATE,
    LEAST_SCORE,
    FoundPose,
    TruePose,
    average_precision,
    box_errors,
    rescored,
    without_duplicates,
)
from visionssm.tasks.pose.pictures import draw_people

NEAR = 0.2
"""Distance, in longer sides of the box, within which `pck20` counts a point as found."""


class KeypointMetric(Metric):
    """COCO's average precision of key points, between 0 and 1: `ap`, `ap50`, `ap75`, `apm`, `apl`, `ar`.

    People that are too similar are left out before (`without_duplicates`). Numbers without anybody are −1, as COCO's.
    With the annotated boxes also `pck20`, the share of labelled points that are found within a fifth of the box's
    longer side, and `mean_error`, their mean distance in such sides. Images that could not be read (index −1) are left
    out and counted as `corrupt`.

    Args:
        keep: people of the data set whose images are drawn.
        nms: greatest similarity of two people in an image who both stay.
        threshold: least score of a point that is drawn.

    Attributes:
        pictures: number of the first person and picture of an image, the truth on the left.
    """

    formats: ClassVar[tuple[str, ...]] = (".json", ".csv")

    def __init__(self, keep: int = 8, nms: float = DUPLICATE, threshold: float = LEAST_SCORE) -> None:
        super().__init__()
        if not 0 <= nms <= 1 or not 0 <= threshold <= 1:
            raise ValueError(f"nms and threshold must be from 0 to 1, got {nms} and {threshold}")
        self.keep = keep
        self.nms = nms
        self.threshold = threshold
        self.people: list[FoundPose] = []
        self.keys: list[Key] = []

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Figures of everybody.

        Args:
            results: `index`, `points` (K, 3) in the image with scores, and `area` of the region, of every sample.
        """
        truth, sigmas = self.dataset.truth, self.dataset.skeleton.sigmas
        valid = sorted((row for row in results if row["index"] >= 0), key=lambda row: row["index"])
        if not valid:
            raise ValueError("nothing to evaluate: no image of the data set can be read")
        self.keys = sorted(truth.images, key=lambda key: (isinstance(key, str), key))
        numbers = {key: number for number, key in enumerate(self.keys)}
        known = [
            TruePose(numbers[key], x["points"], x["area"], x["whole_box"], x["label"], x["crowd"])
            for key, group in truth.objects.items()
            for x in group
        ]
        people = [truth.people[row["index"]] for row in valid]
        points = np.stack([row["points"] for row in valid])
        scores = rescored([person.score for person in people], points[..., 2])
        found = [
            FoundPose(numbers[person.image], x, score, row["area"], person.label)
            for person, row, x, score in zip(people, valid, points, scores.tolist(), strict=True)
        ]
        self.people = without_duplicates(found, sigmas, self.nms)
        figures = {name.lower(): x for name, x in average_precision(known, self.people, sigmas).items()}
        if self.dataset.boxes == FROM_ANNOTATIONS:
            errors = box_errors(points, [person.points for person in people], [person.box for person in people])
            figures |= {"pck20": float((errors <= NEAR).mean()), "mean_error": float(errors.mean())}
        first: dict[Key, int] = {}
        for row, person in zip(valid, people, strict=True):
            if row["index"] < self.keep:
                first.setdefault(person.image, row["index"])
        self.pictures = [(index, picture) for key, index in first.items() for picture in self._drawn(numbers[key])]
        if len(valid) < len(results):
            figures["corrupt"] = float(len(results) - len(valid))
        return figures

    def _drawn(self, number: int) -> Iterator[Image.Image]:
        """The picture of an image, if it can be read."""
        truth, skeleton, key = self.dataset.truth, self.dataset.skeleton, self.keys[number]
        try:
            image = read_listed(truth.images[key])
        except CorruptImageError:
            return
        known = [x for x in truth.objects.get(key, ()) if not x["crowd"]]
        found = [x.points for x in self.people if x.image == number]
        boxes, asked = [x["whole_box"] for x in known], [x.box for x in truth.people if x.image == key]
        yield beside(
            [
                with_title(draw_people(image, [x["points"] for x in known], skeleton, boxes, threshold=0.5), "truth"),
                with_title(
                    draw_people(image, found, skeleton, asked, threshold=self.threshold),
                    f"found (score >= {self.threshold:g})",
                ),
            ]
        )

    def write(self, path: Path, dataset: Any) -> None:
        """Write what was found: .json in COCO's results format, with the data set's ids, or .csv, a line per point."""
        truth, names = dataset.truth, dataset.skeleton.names
        if path.suffix.lower() == ".csv":
            header = ("sample", "person", "point", "x", "y", "score")
            lines = (
                (truth.images[self.keys[x.image]]["name"], number, name, *map(float, point))
                for number, x in enumerate(self.people)
                for name, point in zip(names, x.points, strict=True)
            )
            write_csv(path, header, lines)
            return
        found = [
            {
                "image_id": self.keys[x.image],
                "category_id": truth.categories[x.label - 1],
                "keypoints": x.points.reshape(-1).tolist(),
                "score": x.score,
            }
            for x in self.people
        ]
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")
