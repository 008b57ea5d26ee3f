"""Objects of other frames, pasted into a scene while training (ground-truth sampling; SECOND, Yan et al. 2018)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionssm.data.errors import DatasetError
from visionssm.data.generated import cache_folder, generated_folder
from visionssm.kernels import rotated_iou
from visionssm.pointcloud.boxes import inside
from visionssm.tasks.pointcloud.augment import Cloud
from visionssm.tasks.pointcloud.frames import SweepFrames
from visionssm.tasks.pointcloud.kitti import Ground

VERSION = 1
"""Part of what a base is known by; changes with anything that changes its files."""

MOST_OBJECTS = 500_000
MOST_POINTS = 200_000_000
"""Of a base; what is more is left out, and the log says so."""

MOST_DRAWN = 100
"""Objects of a class that a scene may get."""

_ARRAYS = ("ends", "boxes", "labels")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """The objects of a training set; points are read from the file as they are used.

    Attributes:
        points: (P, F) float32, x, y, z relative to the centre of the object's box.
        ends: (N,) int64 place behind an object's last point.
        boxes: (N, 7) or (N, 9) float64.
        labels: (N,) int64 class numbers.
    """

    points: np.ndarray
    ends: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    def points_of(self, number: int) -> np.ndarray:
        """(n, F) points of an object, relative to its centre."""
        start = int(self.ends[number - 1]) if number else 0
        return np.array(self.points[start : int(self.ends[number])])


@dataclass(frozen=True)
class Pasting:
    """Adds objects where nothing is in their way.

    Attributes:
        objects: to draw from.
        counts: by class number, in the order in which classes are drawn.
        fill: whether objects that the scene has count, so that there are `counts` afterwards.
    """

    objects: Objects
    counts: Mapping[int, int]
    fill: bool = False
    _own: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label in self.counts:
            self._own[label] = np.flatnonzero(self.objects.labels == label)

    def __call__(self, cloud: Cloud, generator: np.random.Generator, ground: Ground | None = None) -> Cloud:
        """The scene with more objects: their points come first, and those of the scene within their boxes are gone.

        An object is left out if it overlaps with any of the scene, those of other classes too, or with one drawn
        together with it.

        Args:
            cloud: the scene.
            generator: draws the objects.
            ground: that they are put on; without it they stay as high as they were.
        """
        boxes, chosen = cloud.boxes, []
        for label, count in self.counts.items():
            wanted = count - int((cloud.labels == label).sum()) if self.fill else count
            drawn = _in_rounds(self._own[label], wanted, generator)
            new = self.objects.boxes[drawn]
            free = _free(new, boxes)
            boxes = np.concatenate([boxes, new[free]])
            chosen.append(drawn[free])
        numbers = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
        if not len(numbers):
            return cloud
        added = self.objects.boxes[numbers]
        if ground is not None:
            added[:, 2] = ground.height(added[:, :3]) + added[:, 5] / 2
        parts = []
        for number, box in zip(numbers, added, strict=True):
            points = self.objects.points_of(int(number))
            points[:, :3] += box[:3].astype(np.float32)
            parts.append(points)
        kept = cloud.points[~_within(cloud.points, added)]
        return Cloud(
            np.concatenate([*parts, kept]).astype(np.float32, copy=False),
            np.concatenate([cloud.boxes, added]),
            np.concatenate([cloud.labels, self.objects.labels[numbers]]),
        )


def _in_rounds(numbers: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """So many of the numbers, none twice before all were drawn."""
    rounds = -(-count // len(numbers)) if len(numbers) and count > 0 else 0
    if not rounds:
        return numbers[:0]
    return np.concatenate([generator.permutation(numbers) for _ in range(rounds)])[:count]


def _free(new: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(M,) whether each of the new boxes, seen from above, overlaps with none of the others and of each other."""
    first, second = (torch.from_numpy(np.ascontiguousarray(x[:, :7])) for x in (new, np.concatenate([there, new])))
    overlap = rotated_iou(first[:, None], second[None]).numpy()
    own = np.arange(len(new))
    overlap[own, len(there) + own] = 0
    return np.asarray(overlap.max(1, initial=0) <= 0)


def _within(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) whether each point is in any of the boxes."""
    rows = torch.from_numpy(points[:, :3].astype(np.float64))
    found = np.zeros(len(points), dtype=bool)
    for box in torch.from_numpy(np.ascontiguousarray(boxes[:, :7])):  # one by one: (N, M, 3) may be large
        found |= inside(rows, box[None])[:, 0].numpy()
    return found


# -- the base of objects -----------------------------------------------------------------------------------------------


def pasting_from(
    data: SweepFrames,
    counts: Mapping[str, int],
    *,
    stamp: Sequence[Any],
    fill: bool = False,
    least_points: Mapping[str, int] | None = None,
    folder: str | Path | None = None,
) -> Pasting:
    """Pasting of the objects of a data set, whose base is written when it is first asked for.

    Args:
        data: the training set.
        counts: objects of each class, in the order in which classes are drawn.
        stamp: what the set's files are known by, in plain types: another one makes another base.
        fill: whether objects that a scene has count.
        least_points: of an object, by class; 5 for those that are not named.
        folder: of the base; None for one in the cache folder.
    Raises:
        DatasetError: a class is unknown or a number makes no sense; the folder holds something else or is damaged.
    """
    for name, table, low, high in (
        ("counts", counts, 0, MOST_DRAWN),
        ("least_points", least_points or {}, 1, 1_000_000),
    ):
        if not isinstance(table, Mapping) or not set(table) <= set(data.classes):
            raise DatasetError(f"pasting.{name}={table!r} must name classes among {', '.join(data.classes)}")
        for kind, value in table.items():
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise DatasetError(f"pasting.{name}.{kind} must be a whole number from {low} to {high}, got {value!r}")
    least = {kind: (least_points or {}).get(kind, data.least_points_of_objects) for kind in data.classes}
    described = {"objects": VERSION, "classes": data.classes, "least_points": least, "stamp": list(stamp)}
    described = json.loads(json.dumps(described))
    if folder is None:
        digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
        folder = cache_folder(f"objects-v{VERSION}-{digest}")
    path = generated_folder(folder, described, lambda temporary: _write(temporary, data, least))
    objects = read_objects(path, len(data.classes))
    return Pasting(objects, {data.classes.index(kind): count for kind, count in counts.items()}, fill)


def _objects_of(data: SweepFrames, least: Mapping[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Points, box and label of every object that may be pasted."""
    for index in range(len(data)):
        cloud, worthy = data.cloud(index), data.worth_pasting(index)
        for number in np.flatnonzero((cloud.labels >= 0) & worthy):
            box, label = cloud.boxes[number], int(cloud.labels[number])
            points = cloud.points[_within(cloud.points, box[None])].astype(np.float32)
            if len(points) >= least[data.classes[label]]:
                points[:, :3] -= box[:3].astype(np.float32)
                yield points, box, label


def _write(folder: Path, data: SweepFrames, least: Mapping[str, int]) -> None:
    boxes: list[np.ndarray] = []
    labels: list[int] = []
    ends: list[int] = []
    features, total, left_out = 0, 0, 0
    with (folder / "points.bin").open("wb") as file:
        for points, box, label in _objects_of(data, least):
            if len(ends) >= MOST_OBJECTS or total + len(points) > MOST_POINTS:
                left_out += 1
                continue
            file.write(np.ascontiguousarray(points, dtype="<f4").tobytes())
            features, total = points.shape[1], total + len(points)
            boxes.append(box)
            labels.append(label)
            ends.append(total)
    if not ends:
        raise DatasetError(f"{data.place!r} has no object with points to paste; leave out pasting")
    if left_out:
        _logger.warning("%s: %d objects are more than a base holds and are left out", data.place, left_out)
    np.save(folder / "ends.npy", np.array(ends, dtype=np.int64))
    np.save(folder / "boxes.npy", np.array(boxes, dtype=np.float64))
    np.save(folder / "labels.npy", np.array(labels, dtype=np.int64))
    (folder / "features.txt").write_text(str(features))


def read_objects(folder: Path, classes: int) -> Objects:
    """The objects of a base.

    Raises:
        DatasetError: a file is missing, damaged, or does not fit the others.
    """
    try:
        arrays = {name: _loaded(folder / f"{name}.npy") for name in _ARRAYS}
        features = int((folder / "features.txt").read_text()[:10])
        if not 3 <= features <= 64:
            raise ValueError(f"{features} numbers per point")
        points = np.memmap(folder / "points.bin", dtype="<f4", mode="r").reshape(-1, features)
        _check(points, arrays, classes)
    except (OSError, ValueError, TypeError, EOFError, SyntaxError) as error:
        raise DatasetError(
            f"{str(folder)!r} is no sound base of objects to paste ({error}); remove the folder, and it is made again"
        ) from error
    return Objects(points, **arrays)


def _loaded(path: Path) -> np.ndarray:
    """An array of a file, which is as long as it says: mapping it refuses any other."""
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


def _check(points: np.ndarray, arrays: Mapping[str, np.ndarray], classes: int) -> None:
    ends, boxes, labels = (arrays[name] for name in _ARRAYS)
    kinds = (ends.dtype.kind, boxes.dtype.kind, labels.dtype.kind)
    if kinds != ("i", "f", "i") or ends.ndim != 1 or boxes.ndim != 2 or boxes.shape[1] not in (7, 9):
        raise ValueError("arrays of another kind")
    if not len(ends) == len(boxes) == len(labels) >= 1 or labels.ndim != 1:
        raise ValueError("arrays of different lengths")
    if ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(points):
        raise ValueError("places of points beyond their file")
    if not np.isfinite(boxes).all() or (boxes[:, 3:6] <= 0).any() or labels.min() < 0 or labels.max() >= classes:
        raise ValueError("boxes or labels out of range")
