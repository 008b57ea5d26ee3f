"""COCO's average precision of key points, and how far they are off."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visionssm.data.coco import read_listed
from visionssm.data.errors import CorruptImageError
from visionssm.data.keypoints import Skeleton
from visionssm.drawing import beside, with_title
from visionssm.engine.task import Metric
from visionssm.files import complete_or_absent, write_csv
from visionssm.heads.pose.oks import oks_nms
from visionssm.tasks.pose.data import FROM_ANNOTATIONS, Truth
from visionssm.tasks.pose.evaluation import average_precision, truth_entry
from visionssm.tasks.pose.pictures import draw_people

COUNTED = 0.2
"""Least score of a point that a person's score counts."""


def person_score(scores: np.ndarray, box_score: float) -> float:
    """Score of a person: that of the box times the mean of those of the points that are above 0.2."""
    certain = scores[scores > COUNTED]
    return float(box_score * certain.mean()) if certain.size else 0.0


class KeypointMetric(Metric):
    """COCO's average precision of key points, between 0 and 1: `ap`, `ap50`, `ap75`, `ap_medium`, `ap_large`, `ar`.

    People that are too similar are left out before (`oks_nms`). Numbers without anybody are −1, as COCO's. With the
    annotated boxes also `pck20`, the share of labelled points that are found within a fifth of the box's longer side,
    and `mean_error`, their mean distance in such sides. Images that could not be read (index −1) are left out and
    counted as `corrupt`.

    Args:
        keep: people of the data set whose images are drawn.
        nms: similarity, see `oks_nms`.
        threshold: least score of a point that is drawn.

    Attributes:
        pictures: number of the first person and picture of an image, the truth on the left.
    """

    formats: ClassVar[tuple[str, ...]] = (".json", ".csv")

    def __init__(self, keep: int = 8, nms: float = 0.9, threshold: float = COUNTED) -> None:
        super().__init__()
        if not 0 <= nms <= 1 or not 0 <= threshold <= 1:
            raise ValueError(f"nms and threshold must be from 0 to 1, got {nms} and {threshold}")
        self.keep = keep
        self.nms = nms
        self.threshold = threshold
        self.people: list[dict[str, Any]] = []

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Figures of everybody.

        Args:
            results: `index`, `points` (K, 3) in the image with scores, and `area` of the region, of every sample.
        """
        about = self.dataset_meta or {}
        truth, skeleton = about["truth"], about["skeleton"]
        valid = [row for row in results if row["index"] >= 0]
        if not valid:
            raise ValueError("nothing to evaluate: no image of the data set can be read")
        self.people = self._without_duplicates(valid, truth, skeleton)
        numbers = {key: number for number, key in enumerate(sorted(truth.images, key=_order))}
        known = [
            truth_entry(numbers[key], 0, x) for key, group in truth.objects.items() for x in group if key in numbers
        ]
        known = [{**entry, "id": number} for number, entry in enumerate(known, start=1)]
        found = [{**_entry(x), "image_id": numbers[x["image"]], "category_id": x["label"]} for x in self.people]
        figures = average_precision(known, found, len(numbers), skeleton.sigmas)
        if about["boxes"] == FROM_ANNOTATIONS:
            figures |= distances(valid, truth)
        self.pictures = list(self._drawn(valid, truth, skeleton))
        if len(valid) < len(results):
            figures["corrupt"] = float(len(results) - len(valid))
        return figures

    def _without_duplicates(
        self, rows: Iterable[Mapping[str, Any]], truth: Truth, skeleton: Skeleton
    ) -> list[dict[str, Any]]:
        people = []
        for row in rows:
            person = truth.people[row["index"]]
            score = person_score(row["points"][:, 2], person.score)
            people.append({**row, "image": person.image, "label": person.label, "score": score})
        kept = []
        people.sort(key=lambda x: (_order(x["image"]), x["label"], x["index"]))
        for _, group in groupby(people, key=lambda x: (x["image"], x["label"])):
            same = list(group)
            points, scores, areas = (np.stack([x[name] for x in same]) for name in ("points", "score", "area"))
            kept += [same[place] for place in oks_nms(points[..., :2], scores, areas, skeleton.sigmas, self.nms)]
        return kept

    def _drawn(
        self, rows: Sequence[Mapping[str, Any]], truth: Truth, skeleton: Skeleton
    ) -> Iterator[tuple[int, Image.Image]]:
        wanted = {truth.people[row["index"]].image: row["index"] for row in reversed(rows) if row["index"] < self.keep}
        for key, index in sorted(wanted.items(), key=lambda item: item[1]):
            try:
                image = read_listed(truth.images[key])
            except CorruptImageError:
                continue
            known = [x for x in truth.objects.get(key, ()) if not x["crowd"]]
            found = [x for x in self.people if x["image"] == key]
            true_boxes, true_points = [x["whole_box"] for x in known], [x["points"] for x in known]
            boxes, points = [truth.people[x["index"]].box for x in found], [x["points"] for x in found]
            title = f"found (score >= {self.threshold:g})"
            yield (
                index,
                beside(
                    [
                        with_title(draw_people(image, true_points, skeleton, true_boxes, threshold=0.5), "truth"),
                        with_title(draw_people(image, points, skeleton, boxes, threshold=self.threshold), title),
                    ]
                ),
            )

    def write(self, path: Path, dataset: Any) -> None:
        """Write what was found: .json in COCO's results format, with the data set's ids, or .csv, a line per point."""
        about = self.dataset_meta or dataset.metainfo
        truth, names = about["truth"], about["skeleton"].names
        if path.suffix.lower() == ".csv":
            header = ("sample", "person", "point", "x", "y", "score")
            lines = (
                (dataset.sample_name(x["index"]), number, name, *map(float, point))
                for number, x in enumerate(self.people)
                for name, point in zip(names, x["points"], strict=True)
            )
            write_csv(path, header, lines)
            return
        found = [
            {"image_id": x["image"], "category_id": truth.categories[x["label"] - 1], **_entry(x)} for x in self.people
        ]
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")


def _order(key: Any) -> tuple[bool, Any]:
    return isinstance(key, str), key


def _entry(person: Mapping[str, Any]) -> dict[str, Any]:
    return {"keypoints": person["points"].reshape(-1).tolist(), "score": person["score"]}


def distances(rows: Sequence[Mapping[str, Any]], truth: Truth) -> dict[str, float]:
    """`pck20` and `mean_error` of samples whose boxes are the annotated ones."""
    parts = []
    for row in rows:
        person = truth.people[row["index"]]
        assert person.points is not None
        labelled = person.points[:, 2] > 0
        left, top, right, bottom = person.box
        off = np.linalg.norm(row["points"][labelled, :2] - person.points[labelled, :2], axis=1)
        parts.append(off / max(right - left, bottom - top))
    errors = np.concatenate(parts)
    return {"pck20": float((errors <= 0.2).mean()), "mean_error": float(errors.mean())}
