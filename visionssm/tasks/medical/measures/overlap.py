"""Overlap of a predicted region and the true one: Dice, intersection over union, sensitivity, specificity, accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Numbers of pixels or voxels: in both regions, in the predicted one alone, in the true one alone, in neither.

    The measures are NaN where they are 0/0.

    Examples:
        >>> counts = Counts(hits=2, extra=1, missed=1, rest=6)
        >>> round(counts.dice, 4), counts.iou, round(counts.sensitivity, 4), counts.accuracy
        (0.6667, 0.5, 0.6667, 0.8)
    """

    hits: int
    extra: int
    missed: int
    rest: int

    @property
    def true(self) -> int:
        """Size of the true region."""
        return self.hits + self.missed

    @property
    def predicted(self) -> int:
        """Size of the predicted region."""
        return self.hits + self.extra

    @property
    def dice(self) -> float:
        """2·|A∩B| / (|A|+|B|), which is F1."""
        return _ratio(2 * self.hits, self.true + self.predicted)

    @property
    def iou(self) -> float:
        """|A∩B| / |A∪B|."""
        return _ratio(self.hits, self.hits + self.extra + self.missed)

    @property
    def sensitivity(self) -> float:
        """Share of the true region that was found."""
        return _ratio(self.hits, self.true)

    @property
    def specificity(self) -> float:
        """Share of what is not the true region that was left out."""
        return _ratio(self.rest, self.rest + self.extra)

    @property
    def accuracy(self) -> float:
        """Share of all pixels that are right."""
        return _ratio(self.hits + self.rest, self.hits + self.extra + self.missed + self.rest)


MEASURES = ("iou", "dice", "accuracy", "sensitivity", "specificity")
"""What is told of counts that are pooled over a data set."""


def counts_of(predicted: np.ndarray, true: np.ndarray) -> Counts:
    """Counts of two masks of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted has shape {predicted.shape} and true {true.shape}; give masks of one shape")
    both, a, b = (int(np.count_nonzero(x)) for x in (predicted & true, predicted, true))
    return Counts(both, a - both, b - both, predicted.size - a - b + both)


def pooled(counts: Iterable[Counts]) -> Counts:
    """Sums of counts: those of all pixels of a data set, as if it were one image."""
    listed = list(counts)
    names = ("hits", "extra", "missed", "rest")
    return Counts(*(sum(getattr(x, name) for x in listed) for name in names))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
