"""Key points in COCO's format: what their categories say, and annotations and detections, looked through as a whole.

A category of key points has COCO's `keypoints`, the K names, and `skeleton`, pairs of numbers from 1. What COCO's
format has no place for, and programs have as constants of a data set, may be said there too:

    "flip_pairs": [["left_eye", "right_eye"], …]   names, or numbers from 1, of the points that swap in a mirror
    "sigmas": [0.025, …]                           K constants of the object key-point similarity, as COCO defines them

Without `flip_pairs`, the points whose names differ by "left" and "right" alone (or "l" and "r") swap. Without `sigmas`,
COCO's 17 points have COCO's, and all others 0.05, which is told in the log: figures can then be compared with each
other, but not with those of other programs.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.coco import LARGEST
from visionssm.data.errors import DatasetError
from visionssm.data.masks import is_number
from visionssm.data.problems import Mistake

COCO_NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""How far people who label the 17 points of COCO disagree, in square roots of the person's area."""

USUAL_SIGMA = 0.05
_MOST_POINTS = 1000
_LOWER = {"hip", "knee", "ankle", "heel", "foot", "toe"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skeleton:
    """What there is to know of the key points of a category, beside where they are.

    Attributes:
        names: of the K points.
        flip_pairs: numbers, from 0, of points that swap in a mirror.
        edges: numbers of points that are joined in pictures.
        sigmas: (K,) constants of the object key-point similarity.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    @property
    def lower(self) -> tuple[int, ...]:
        """Numbers of the points of hips and legs, by their names; the others are the upper half."""
        return tuple(n for n, name in enumerate(self.names) if _LOWER & set(re.split(r"[\W_]+", name.lower())))

    def plain(self) -> dict[str, Any]:
        """As a dictionary of lists, for checkpoints."""
        return {name: [list(x) if isinstance(x, tuple) else x for x in items] for name, items in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Skeleton:
        """Of what `plain` gave.

        Raises:
            DatasetError: it is something else.
        """
        names = content.get("names")
        if not isinstance(names, (list, tuple)) or not 0 < len(names) <= _MOST_POINTS:
            raise DatasetError(f"key points need a list of names, got {names!r:.60}")
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise DatasetError(f"names of key points must be different texts, got {names!r:.60}")
        pairs = _pairs(content.get("flip_pairs"), names, "flip_pairs", first=0)
        _check_disjoint(pairs, names)
        edges = _pairs(content.get("edges"), names, "edges", first=0)
        return cls(tuple(names), pairs, edges, _sigmas(content.get("sigmas"), len(names)))


def skeleton_of(category: Mapping[str, Any]) -> Skeleton:
    """The key points of a category of a COCO file.

    Raises:
        DatasetError: names, pairs or sigmas are wrong, or do not match.

    Examples:
        >>> skeleton_of({"name": "cup", "keypoints": ["top", "left_rim", "right_rim"]}).flip_pairs
        ((1, 2),)
    """
    where = f"the category {str(category.get('name'))!r:.60}"
    names = category.get("keypoints")
    try:
        names_alone = {"names": names, "edges": (), "flip_pairs": (), "sigmas": [1.0] * len(names or ())}
        Skeleton.from_plain(names_alone)
        assert isinstance(names, list)
        pairs = category.get("flip_pairs")
        flip_pairs = named_pairs(names) if pairs is None else _pairs(pairs, names, "flip_pairs", first=1)
        _check_disjoint(flip_pairs, names)
        edges = _pairs(category.get("skeleton") or (), names, "skeleton", first=1)
        given = category.get("sigmas")
        sigmas = usual_sigmas(names, where) if given is None else _sigmas(given, len(names))
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error
    return Skeleton(tuple(names), flip_pairs, edges, sigmas)


def usual_sigmas(names: Sequence[str], where: str) -> tuple[float, ...]:
    """Of points whose category does not say theirs."""
    if tuple(names) == COCO_NAMES:
        return COCO_SIGMAS
    _logger.warning("%s has no sigmas: key points are measured with %g for each", where, USUAL_SIGMA)
    return (USUAL_SIGMA,) * len(names)


def named_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Numbers of points whose names differ by left and right alone.

    Raises:
        DatasetError: a left or a right point has no partner.
    """
    swapped = {"left": "right", "right": "left", "l": "r", "r": "l"}
    numbers = {name.lower(): number for number, name in enumerate(names)}
    pairs = []
    for number, name in enumerate(names):
        words = re.split(r"([\W_]+)", name.lower())
        if not swapped.keys() & set(words):
            continue
        other = "".join(swapped.get(word, word) for word in words)
        if other not in numbers:
            raise DatasetError(f"flip pairs do not match: the point {name!r} has no partner {other!r}; say flip_pairs")
        if number < numbers[other]:
            pairs.append((number, numbers[other]))
    return tuple(pairs)


def _pairs(given: Any, names: Sequence[str], what: str, *, first: int) -> tuple[tuple[int, int], ...]:
    """Pairs of names, or of numbers that are counted from `first`, as pairs of numbers from 0."""
    if not isinstance(given, (list, tuple)) or len(given) > _MOST_POINTS**2:
        raise DatasetError(f"{what} must be a list of pairs, got {given!r:.60}")
    found = []
    for pair in given:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DatasetError(f"{what} must be a list of pairs, but one is {pair!r:.60}")
        numbers = [names.index(x) + first if isinstance(x, str) and x in names else x for x in pair]
        if not all(type(x) is int and first <= x < len(names) + first for x in numbers):
            raise DatasetError(
                f"{what}: {list(pair)!r:.60} are no two points; give names, or numbers from {first} to "
                f"{len(names) + first - 1}"
            )
        found.append((numbers[0] - first, numbers[1] - first))
    return tuple(found)


def _check_disjoint(pairs: Sequence[tuple[int, int]], names: Sequence[str]) -> None:
    used = [number for pair in pairs for number in pair]
    twice = sorted({names[number] for number in used if used.count(number) > 1})
    if twice:
        raise DatasetError(
            f"flip pairs do not match: {', '.join(twice[:5])} would swap with two points, or with itself"
        )


def _sigmas(given: Any, count: int) -> tuple[float, ...]:
    listed = given if isinstance(given, (list, tuple)) else ()
    if len(listed) != count or not all(is_number(x) and 0 < x < 1e3 for x in listed):
        raise DatasetError(f"sigmas must be {count} positive numbers, one for each point, got {given!r:.60}")
    return tuple(map(float, listed))


def points_of(entry: Mapping[str, Any], count: int) -> np.ndarray:
    """(K, 3) x, y and visibility of an annotation's key points, which are x1, y1, v1, x2, … in the file.

    Raises:
        Mistake: of another length, no numbers, or of a visibility other than 0, 1 and 2.
    """
    listed = entry.get("keypoints")
    if not isinstance(listed, (list, tuple)) or len(listed) != 3 * count:
        length = f"{len(listed)} numbers" if isinstance(listed, (list, tuple)) else repr(listed)[:40]
        raise Mistake("annotations with key points of another length", f"{length}, not 3 × {count}")
    if not all(is_number(x) and abs(x) < LARGEST for x in listed):
        raise Mistake("annotations with key points that are no numbers")
    points = np.array(listed, dtype=np.float64).reshape(count, 3)
    unknown = points[~np.isin(points[:, 2], (0, 1, 2)), 2]
    if unknown.size:
        raise Mistake("annotations with a visibility other than 0, 1 and 2", f"{unknown[0]:g}")
    return points


def area_of(entry: Mapping[str, Any]) -> float:
    """Area of a person, by which COCO's evaluation scales distances.

    Raises:
        Mistake: there is none, or it is not positive.
    """
    area = entry.get("area")
    if not is_number(area) or not 0 < area < LARGEST**2:
        raise Mistake("annotations without an area (the mask's; without masks say the box's)", repr(area)[:40])
    return float(area)


def read_detections(path: Path) -> list[Any]:
    """A file in COCO's format for results: a list of `image_id`, `category_id`, `bbox` and `score`.

    Raises:
        DatasetError: it cannot be read, or is no such list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{str(path)!r} is no JSON file: {error}") from error
    if not isinstance(content, list):
        raise DatasetError(
            f"{str(path)!r} is no list of detections, each with image_id, category_id, bbox and score, as "
            "tools/test.py --out detections.json writes it"
        )
    return content


def score_of(entry: Mapping[str, Any]) -> float:
    """A detection's score.

    Raises:
        Mistake: it is no number from 0 to 1.
    """
    score = entry.get("score")
    if not is_number(score) or not 0 <= score <= 1:
        raise Mistake("detections whose score is no number from 0 to 1", repr(score)[:40])
    return float(score)
