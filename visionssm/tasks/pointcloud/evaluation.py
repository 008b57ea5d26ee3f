"""Average precision of 3-D boxes as KITTI's development kit measures it (Geiger 2012; 40 recalls: Simonelli 2019).

What counts depends on the difficulty: objects whose picture is too low, too much hidden or cut off are neither asked
for nor counted as wrong where they are found, and so are objects of a class that looks alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from visionssm.kernels import rotated_iou, rotated_iou_3d
from visionssm.tasks.pointcloud.kitti import Label

MEASURES = ("2d", "bev", "3d", "aos")
"""Overlap of the boxes in the picture, as seen from above, in space; and "2d" weighted by how right the heading is."""

POSITIONS = 41
"""Recalls at which precision is measured, from 0 to 1."""

_LOOK_ALIKE = {"Car": "Van", "Pedestrian": "Person_sitting"}
_DONT_CARE = "DontCare"

# Least overlaps: in the picture, and two from above and in space.
_OVERLAPS = {"Car": (0.7, 0.7, 0.5), "Vehicle": (0.7, 0.7, 0.5), "car": (0.7, 0.7, 0.5)}
_OTHER_OVERLAPS = (0.5, 0.5, 0.25)

_ASKED, _IGNORED, _OTHER = 0, 1, -1


class Level(NamedTuple):
    """Objects that are asked for.

    Attributes:
        name: of the level.
        height: in the picture, in pixels, above which an object is asked for, and below which no prediction counts.
        occluded, truncated: at most.
    """

    name: str
    height: float
    occluded: int
    truncated: float


LEVELS = (Level("easy", 40, 0, 0.15), Level("moderate", 25, 1, 0.3), Level("hard", 25, 2, 0.5))
EVERY = Level("every", -1, 3, 1.0)
"""Objects however small, hidden or cut off they are."""


class Judged(NamedTuple):
    """The objects of a frame.

    Attributes:
        truths: all labels, those of other classes and of areas that nobody cares for too.
        found: predictions with scores.
    """

    truths: Sequence[Label]
    found: Sequence[Label]


@dataclass(frozen=True)
class Score:
    """A figure of the table.

    Attributes:
        kind: class.
        measure: one of `MEASURES`.
        overlap: least intersection over union of a right prediction.
        level: name of a `Level`.
        precision: at the 41 recalls, never rising; all zero if nothing was found.
        truths: objects that were asked for; without any there is no figure.
    """

    kind: str
    measure: str
    overlap: float
    level: str
    precision: tuple[float, ...]
    truths: int

    @property
    def ap11(self) -> float:
        """Mean precision at 11 recalls, from 0 on; NaN without truths."""
        return float(np.mean(self.precision[::4])) if self.truths else math.nan

    @property
    def ap40(self) -> float:
        """Mean precision at 40 recalls, from 1/40 on; NaN without truths."""
        return float(np.mean(self.precision[1:])) if self.truths else math.nan


def least_overlaps(kind: str) -> tuple[float, float, float]:
    """Of a class: in the picture, and the strict and the loose one from above and in space."""
    return _OVERLAPS.get(kind, _OTHER_OVERLAPS)


def evaluate(frames: Sequence[Judged], classes: Sequence[str], levels: Sequence[Level] = LEVELS) -> list[Score]:
    """All figures of these classes."""
    overlaps = [_Overlaps(frame) for frame in frames]
    scores = []
    for kind in classes:
        flat, strict, loose = least_overlaps(kind)
        wanted = [("2d", flat), ("aos", flat)] + [(x, least) for x in ("bev", "3d") for least in (strict, loose)]
        for level in levels:
            parts = [_Part(frame, kind, level) for frame in frames]
            for measure, least in wanted:
                precision = _precision(parts, [x.of(measure) for x in overlaps], measure, least)
                truths = sum(part.truths.count(_ASKED) for part in parts)
                scores.append(Score(kind, measure, least, level.name, precision, truths))
    return scores


# -- overlaps ----------------------------------------------------------------------------------------------------------


class _Overlaps:
    """Overlaps of the predictions and the truths of a frame."""

    def __init__(self, frame: Judged) -> None:
        truths, found = list(frame.truths), list(frame.found)
        first, second = (np.array([x.box for x in part]).reshape(-1, 4) for part in (found, truths))
        solid = [_camera_boxes(part)[:, None] if part is found else _camera_boxes(part) for part in (found, truths)]
        picture = _picture_overlap(first, second)
        self._all = {
            "2d": picture,
            "aos": picture,
            "bev": rotated_iou(*solid).numpy(),
            "3d": rotated_iou_3d(*solid).numpy(),
        }
        nobody = np.array([x.box for x in truths if x.kind == _DONT_CARE]).reshape(-1, 4)
        self.uncared = _picture_overlap(first, nobody, of_first=True)

    def of(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """(found, truths) overlaps, and (found, areas) shares of predictions in areas that nobody cares for."""
        uncared = self.uncared if measure in ("2d", "aos") else self.uncared[:, :0]
        return self._all[measure], uncared


def _picture_overlap(a: np.ndarray, b: np.ndarray, *, of_first: bool = False) -> np.ndarray:
    """(N, M) intersection over union of boxes in the picture, or over the area of the first."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])) for x in (a, b)]
    whole = areas[0][:, None] if of_first else areas[0][:, None] + areas[1] - common
    return common / np.maximum(np.broadcast_to(whole, common.shape), 1e-9)


def _camera_boxes(labels: Sequence[Label]) -> torch.Tensor:
    """(N, 7) boxes in camera coordinates with the third axis upwards: x to the right, z ahead."""
    rows = [
        (x.location[0], x.location[2], x.size[0] / 2 - x.location[1], x.size[2], x.size[1], x.size[0], -x.rotation)
        if x.kind != _DONT_CARE
        else (-1e3, -1e3, -1e3, 0, 0, 0, 0)
        for x in labels
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)


# -- matching ----------------------------------------------------------------------------------------------------------


class _Part:
    """What a frame has to do with a class and a difficulty.

    Attributes:
        truths, found: `_ASKED`, `_IGNORED` or `_OTHER` of every object.
        scores: of the predictions.
        turns: (found, truths) whether headings agree, from 0 to 1.
    """

    def __init__(self, frame: Judged, kind: str, level: Level) -> None:
        self.truths = [_truth_status(label, kind, level) for label in frame.truths]
        self.found = []
        for label in frame.found:
            low = abs(label.box[3] - label.box[1]) < level.height  # whatever its class, as in the kit
            self.found.append(_IGNORED if low else _ASKED if label.kind == kind else _OTHER)
        self.scores = [0.0 if label.score is None else label.score for label in frame.found]
        angles = [np.array([label.alpha for label in part]) for part in (frame.found, frame.truths)]
        self.turns = (1 + np.cos(angles[0][:, None] - angles[1])) / 2


def _truth_status(label: Label, kind: str, level: Level) -> int:
    if label.kind == kind:
        hard = (
            label.occluded > level.occluded
            or label.truncated > level.truncated
            or label.box[3] - label.box[1] <= level.height
        )
        return _IGNORED if hard else _ASKED
    return _IGNORED if label.kind == _LOOK_ALIKE.get(kind) else _OTHER


def _precision(
    parts: Sequence[_Part], overlaps: Sequence[tuple[np.ndarray, np.ndarray]], measure: str, least: float
) -> tuple[float, ...]:
    """Precision at the 41 recalls."""
    pairs = [
        (part, *x) for part, x in zip(parts, overlaps, strict=True) if any(s >= 0 for s in part.truths + part.found)
    ]
    right = sorted((s for part, overlap, _ in pairs for s in _right_scores(part, overlap, least)), reverse=True)
    asked = sum(part.truths.count(_ASKED) for part in parts)
    values = np.zeros(POSITIONS)
    for number, threshold in enumerate(_thresholds(right, asked)):
        counts = np.zeros(3)
        for part, overlap, uncared in pairs:
            counts += _counts(part, overlap, uncared, least, threshold, measure)
        hits, wrong, turned = counts
        if hits + wrong:
            values[number] = (turned if measure == "aos" else hits) / (hits + wrong)
    return tuple(np.maximum.accumulate(values[::-1])[::-1].tolist())


def _thresholds(scores: Sequence[float], asked: int) -> list[float]:
    """The score at each of the 41 recalls that is reached: of the falling scores the one whose recall is nearest.

    With more than 40 truths these are the development kit's. It takes every score once at most, so that with fewer
    truths it leaves recalls out and even perfect predictions get less than 100; here a score stands for all recalls
    that it is nearest to.
    """
    thresholds: list[float] = []
    step = 1 / (POSITIONS - 1)
    for number, score in enumerate(scores):
        here, there = (number + 1) / asked, (number + 2) / asked
        if number == len(scores) - 1:
            thresholds.append(score)
            while len(thresholds) * step <= here + 1e-9:
                thresholds.append(score)
        else:
            while there - len(thresholds) * step >= len(thresholds) * step - here:
                thresholds.append(score)
    return thresholds[:POSITIONS]


def _right_scores(part: _Part, overlap: np.ndarray, least: float) -> list[float]:
    """Scores of predictions that are right, each truth taking the best-scored one that overlaps it."""
    taken: set[int] = set()
    scores = []
    for truth, status in enumerate(part.truths):
        if status == _OTHER:
            continue
        free = [j for j, s in enumerate(part.found) if s != _OTHER and j not in taken and overlap[j, truth] > least]
        if not free:
            continue
        best = max(free, key=lambda j: part.scores[j])
        taken.add(best)
        if status == _ASKED and part.found[best] == _ASKED:
            scores.append(part.scores[best])
    return scores


def _counts(
    part: _Part, overlap: np.ndarray, uncared: np.ndarray, least: float, threshold: float, measure: str
) -> tuple[float, float, float]:
    """Right and wrong predictions of at least a score, and how well the right ones are turned.

    Each truth takes the prediction that overlaps it most, those that count before those that do not.
    """
    taken: set[int] = set()
    hits, turned = 0, 0.0
    able = [j for j, s in enumerate(part.found) if s != _OTHER and part.scores[j] >= threshold]
    for truth, status in enumerate(part.truths):
        if status == _OTHER:
            continue
        free = [j for j in able if j not in taken and overlap[j, truth] > least]
        if not free:
            continue
        counting = [j for j in free if part.found[j] == _ASKED]
        best = max(counting, key=lambda j: overlap[j, truth]) if counting else free[0]
        taken.add(best)
        if status == _ASKED and part.found[best] == _ASKED:
            hits += 1
            turned += part.turns[best, truth] if measure == "aos" else 0.0
    wrong = [j for j in able if j not in taken and part.found[j] == _ASKED]
    wrong = [j for j in wrong if not (uncared[j] > least).any()]
    return hits, len(wrong), turned


def table(scores: Sequence[Score]) -> list[tuple[str | float, ...]]:
    """Rows: class, measure, least overlap, level, AP11, AP40, in percent as KITTI's tables have them, and truths."""
    return [(x.kind, x.measure, x.overlap, x.level, 100 * x.ap11, 100 * x.ap40, x.truths) for x in scores]


def headline(scores: Sequence[Score], level: str = "moderate") -> dict[str, float]:
    """The figures that are logged: AP40 of a level between 0 and 1, in space and from above.

    "car_3d_70" is that of cars whose boxes overlap by 0.7; "ap_3d" is the mean over classes of the strict ones.
    Classes without truths are left out.
    """
    named: dict[str, float] = {}
    strict = []
    for x in scores:
        if x.level == level and x.measure in ("3d", "bev") and x.truths:
            named[f"{x.kind.lower()}_{x.measure}_{round(100 * x.overlap)}"] = x.ap40
            if x.measure == "3d" and x.overlap == least_overlaps(x.kind)[1]:
                strict.append(x.ap40)
    return {"ap_3d": float(np.mean(strict)) if strict else 0.0, **named}
