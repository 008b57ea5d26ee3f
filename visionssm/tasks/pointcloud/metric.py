"""Average precision of objects in point clouds, as KITTI measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from visionssm.engine.task import Metric
from visionssm.files import complete_or_absent, write_csv
from visionssm.pointcloud.boxes import inside
from visionssm.tasks.pointcloud.data import DONT_CARE, Frame
from visionssm.tasks.pointcloud.evaluation import EVERY, LEVELS, Judged, Score, evaluate, headline, table
from visionssm.tasks.pointcloud.kitti import Label, labels_of_boxes, lidar_boxes, write_labels
from visionssm.tasks.pointcloud.pictures import (
    TRUTH,
    colours_of,
    draw_above,
    seen_from_above,
    view_of,
    with_classes,
)


class KittiMetric(Metric):
    """Average precision at 40 recalls, of moderate difficulty, between 0 and 1; `headline` says under which names.

    All figures of KITTI's table, of three difficulties, at 11 and 40 recalls, are in `scores` after an evaluation, and
    are written beside the predictions.

    Args:
        keep: frames of the data set that are kept for drawing.
        threshold: least score of what is drawn.
        least_points: if given, figures are of one level only, "every": all objects in which there are so many points,
            however far or hidden; the others are neither asked for nor wrong.

    Attributes:
        scores: of the last evaluation.
    """

    formats: ClassVar[tuple[str, ...]] = ("", ".json", ".csv")

    def __init__(self, keep: int = 4, threshold: float = 0.3, least_points: int = 0) -> None:
        super().__init__()
        self.keep = keep
        self.threshold = threshold
        self.least_points = least_points
        self.rows: list[dict[str, Any]] = []
        self.scores: list[Score] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the boxes of one batch, and the points of the first frames of the data set."""
        for row in data_samples:
            shown = ("points",) if row["index"] < self.keep else ()
            kept = {x: row[x] for x in ("index", "frame", "boxes", "scores", "labels", *shown)}
            if self.least_points:
                kept["truths"] = _with_points(row["frame"], row["points"], self.least_points)
            self.results.append(kept)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Figures of all frames."""
        if not results:
            raise ValueError("nothing to evaluate: the data set has no frame")
        classes = list((self.dataset_meta or {}).get("classes") or [])
        self.rows = sorted(results, key=lambda row: int(row["index"]))
        for row in self.rows:
            kinds = [classes[number] for number in row["labels"]]
            frame = row["frame"]
            row["found"] = labels_of_boxes(row["boxes"], kinds, frame.calibration, frame.size, row["scores"])
        judged = [Judged(row.get("truths", row["frame"].labels), row["found"]) for row in self.rows]
        self.scores = evaluate(judged, classes, [EVERY] if self.least_points else LEVELS)
        self.pictures = [(row["index"], self._picture(row, classes)) for row in self.rows if "points" in row]
        return headline(self.scores, self.headline_level)

    @property
    def headline_level(self) -> str:
        """Name of the difficulty whose figures are logged."""
        return EVERY.name if self.least_points else "moderate"

    def write(self, path: Path, dataset: Any) -> None:
        """Write KITTI's text files and the table of all figures into a folder; or one of .json and .csv.

        The .json has the boxes of every frame in LiDAR coordinates, the .csv the table.
        """
        if path.suffix.lower() == ".json":
            frames = [{"sample": row["frame"].name, "objects": plain_objects(row)} for row in self.rows]
            with complete_or_absent(path) as temporary:
                temporary.write_text(json.dumps(frames, indent=1), encoding="utf-8")
            return
        if path.suffix.lower() != ".csv":
            for row in self.rows:
                write_labels(path / f"{row['frame'].name}.txt", row["found"])
        header = ("class", "measure", "overlap", "difficulty", "ap11", "ap40", "truths")
        write_csv(path if path.suffix.lower() == ".csv" else path / "scores.csv", header, table(self.scores))

    def _picture(self, row: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
        frame, points = row["frame"], row["points"]
        low, high = np.floor(points[:, :2].min(0, initial=0)), np.ceil(points[:, :2].max(0, initial=1))
        view = view_of((*low, 0, *high, 0))
        image = seen_from_above(points, view)
        truths = [x for x in frame.labels if x.kind != DONT_CARE]
        draw_above(image, lidar_boxes(truths, frame.calibration), [TRUTH] * len(truths), view, width=3)
        good = row["scores"] >= self.threshold
        numbers = row["labels"][good]
        draw_above(image, row["boxes"][good], colours_of(numbers), view)
        return with_classes(image, classes, numbers, truth=True)


def _with_points(frame: Frame, points: np.ndarray, least: int) -> tuple[Label, ...]:
    """The labels of a frame; those with fewer points are marked as hidden beyond every level."""
    boxes = torch.from_numpy(lidar_boxes(frame.labels, frame.calibration))
    counts = inside(torch.from_numpy(points[:, :3].astype(np.float64)), boxes).sum(0).tolist()
    return tuple(
        label if count >= least else replace(label, occluded=EVERY.occluded + 1)
        for label, count in zip(frame.labels, counts, strict=True)
    )


def plain_objects(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was found in a frame, in plain types."""
    return [
        {"class": label.kind, "score": float(score), "box": [round(float(x), 4) for x in box]}
        for label, score, box in zip(row["found"], row["scores"], row["boxes"], strict=True)
    ]
