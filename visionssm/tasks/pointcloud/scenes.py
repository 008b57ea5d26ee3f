"""Street scenes as a turning LiDAR sees them, in KITTI's format: data for detection in point clouds without a download.

Cars, pedestrians, cyclists, poles and walls stand on sloping ground. 64 beams are cast at all of them: what is nearest
is hit, what is behind it is hidden. Beams get lost and ranges are noisy. A scene is a function of the specification,
the split and its number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.data.generated import SPLITS, cache_folder, checked_spec, generated_folder
from visionssm.tasks.pointcloud.data import KittiFrames
from visionssm.tasks.pointcloud.kitti import (
    IMAGE_SIZE,
    Calibration,
    Label,
    image_box,
    labels_of_boxes,
    write_calibration,
    write_labels,
    write_sweep,
)

VERSION = 1
"""Part of the folder's name; changes with anything that changes a scene."""

CLASSES = ("Car", "Pedestrian", "Cyclist")
HEIGHT = 1.73
"""Metres of the LiDAR above the ground."""

BEAMS = 64
FARTHEST = 60.0
CALIBRATION = Calibration(
    projection=np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]]),
    rectification=np.eye(3),
    velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]]),
)
"""A camera beside the LiDAR, like KITTI's."""


@dataclass(frozen=True)
class ScenesSpec:
    """What decides every point of a set.

    Attributes:
        train, val, test: numbers of scenes.
        columns: directions of the beams over the 90 degrees ahead.
        most_cars, most_pedestrians, most_cyclists: in a scene; of cars there is at least one.
        seed: another one gives other scenes.
    """

    train: int = 200
    val: int = 40
    test: int = 40
    columns: int = 300
    most_cars: int = 7
    most_pedestrians: int = 4
    most_cyclists: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"train": 99_999, "val": 99_999, "test": 99_999, "columns": 4000}
        for name, value in asdict(self).items():
            least, most = 1 if name in (*limits, "most_cars") else 0, limits.get(name, 2**31 if name == "seed" else 20)
            if not isinstance(value, int) or not least <= value <= most:
                raise DatasetError(f"spec.{name} must be a whole number from {least} to {most}, got {value!r}")

    @property
    def folder_name(self) -> str:
        """Different for every specification."""
        return "-".join(["scenes", f"v{VERSION}", *(str(value) for value in asdict(self).values())])


class Solid(NamedTuple):
    """A box that beams are stopped by.

    Attributes:
        box: x, y, z of the centre, length, width, height, heading.
        shine: share of the light that it throws back.
        owner: number of the labelled object that it is a part of, −1 for none.
    """

    box: np.ndarray
    shine: float
    owner: int


class Scene(NamedTuple):
    """A scene as it is written.

    Attributes:
        points: (N, 4) x, y, z, intensity.
        labels: of the objects that have points.
    """

    points: np.ndarray
    labels: list[Label]


@dataclass(frozen=True)
class _Kind:
    """Sizes of a class, and the parts that an object is made of.

    Attributes:
        low, high: length, width, height.
        parts: shares of length, width and of the height from and to, and of the length that a part is ahead.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    parts: tuple[tuple[float, float, float, float, float], ...]


_KINDS: Mapping[str, _Kind] = {
    "Car": _Kind((3.4, 1.5, 1.4), (4.5, 1.8, 1.7), ((1.0, 1.0, 0.12, 0.6, 0.0), (0.55, 0.88, 0.6, 1.0, -0.05))),
    "Pedestrian": _Kind(
        (0.6, 0.5, 1.55),
        (0.9, 0.7, 1.85),
        ((1.0, 0.5, 0.0, 0.45, 0.0), (0.5, 1.0, 0.45, 0.85, 0.0), (0.3, 0.35, 0.85, 1.0, 0.0)),
    ),
    "Cyclist": _Kind((1.6, 0.5, 1.6), (1.9, 0.7, 1.85), ((1.0, 0.15, 0.0, 0.5, 0.0), (0.35, 1.0, 0.45, 1.0, -0.05))),
}


def render(spec: ScenesSpec, split: str, index: int) -> Scene:
    """One scene, a function of its arguments alone.

    Raises:
        DatasetError: (a ValueError) there is no such split.
    """
    checked_spec(ScenesSpec, split, None)
    generator = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    slope = generator.normal(0, 0.012, 2)
    boxes, kinds = _objects(generator, spec, slope)
    solids: list[Solid] = []
    for number, (box, kind) in enumerate(zip(boxes, kinds, strict=True)):
        solids += _parts(generator, box, kind, number)
    solids += _clutter(generator, boxes, slope)
    directions = _directions(spec.columns)
    ranges = _hits(directions, solids)  # (beams, solids)
    ground = _ground(directions, slope)
    nearest = np.minimum(ranges.min(1), ground)
    owners = np.array([solid.owner for solid in solids])
    first = np.where(ranges.min(1) < ground, ranges.argmin(1), -1)

    shine = np.where(first >= 0, np.array([solid.shine for solid in solids])[first], 0.25)
    kept = (nearest < FARTHEST) & (generator.random(len(nearest)) > 0.05 + 0.15 * nearest / FARTHEST)
    distance = nearest + generator.normal(0, 0.015, len(nearest))
    intensity = np.clip(shine * generator.normal(1, 0.15, len(nearest)), 0, 0.99)
    points = np.concatenate([directions * distance[:, None], intensity[:, None]], 1)[kept]

    hit = np.where(first >= 0, owners[first], -1)
    labels = []
    for number, label in enumerate(labels_of_boxes(boxes, kinds, CALIBRATION, IMAGE_SIZE)):
        alone = int((ranges[:, owners == number].min(1) < FARTHEST).sum())
        if (kept & (hit == number)).any():
            seen = int((hit == number).sum()) / alone
            labels.append(_judged(label, seen))
    return Scene(points[CALIBRATION.sees(points, IMAGE_SIZE)].astype(np.float32), labels)


def _judged(label: Label, seen: float) -> Label:
    """A label with its occlusion, of the share that is not hidden, and its truncation."""
    whole = image_box(np.array(label.location), label.size, label.rotation, CALIBRATION)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (label.box, whole)]
    occluded = 0 if seen > 0.8 else 1 if seen > 0.4 else 2
    return Label(
        **{**vars(label), "occluded": occluded, "truncated": float(np.clip(1 - areas[0] / max(areas[1], 1e-6), 0, 1))}
    )


def _objects(generator: np.random.Generator, spec: ScenesSpec, slope: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(M, 7) boxes that stand apart on the ground within the camera's view, and their classes."""
    most = {"Car": spec.most_cars, "Pedestrian": spec.most_pedestrians, "Cyclist": spec.most_cyclists}
    boxes: list[np.ndarray] = []
    kinds: list[str] = []
    for kind, limit in most.items():
        for _ in range(int(generator.integers(kind == "Car", limit + 1))):
            for _ in range(20):
                box = _placed(generator, kind, slope)
                reach = math.hypot(box[3], box[4]) / 2
                if all(math.dist(box[:2], x[:2]) > reach + math.hypot(x[3], x[4]) / 2 for x in boxes):
                    boxes.append(box)
                    kinds.append(kind)
                    break
    return np.stack(boxes), kinds


def _placed(generator: np.random.Generator, kind: str, slope: np.ndarray) -> np.ndarray:
    """An object of a class at a random place, turned as on a street, or anyhow."""
    x = generator.uniform(5, 36)
    y = generator.uniform(-0.7, 0.7) * x
    size = generator.uniform(_KINDS[kind].low, _KINDS[kind].high)
    along = generator.normal(0, 0.15) + math.pi * generator.integers(2)
    heading = along if kind != "Pedestrian" and generator.random() < 0.7 else generator.uniform(-math.pi, math.pi)
    return np.array([x, y, slope @ (x, y) - HEIGHT + size[2] / 2, *size, heading])


def _parts(generator: np.random.Generator, box: np.ndarray, kind: str, owner: int) -> list[Solid]:
    """The boxes that an object is made of, all within its own."""
    shine = generator.uniform(0.1, 0.7)
    cos, sin = math.cos(box[6]), math.sin(box[6])
    solids = []
    for length, width, low, high, ahead in _KINDS[kind].parts:
        step = ahead * box[3]
        x, y = box[0] + step * cos, box[1] + step * sin
        z = box[2] + ((low + high) / 2 - 0.5) * box[5]
        part = np.array([x, y, z, length * box[3], width * box[4], (high - low) * box[5], box[6]])
        solids.append(Solid(part, shine, owner))
    return solids


def _clutter(generator: np.random.Generator, boxes: np.ndarray, slope: np.ndarray) -> list[Solid]:
    """Poles and walls that stand apart from the objects."""
    solids = []
    poles, walls = int(generator.integers(2, 7)), int(generator.integers(0, 4))
    for usual in [(0.2, 0.2, 4.0)] * poles + [(10.0, 0.3, 2.5)] * walls:
        size = np.array(usual) * generator.uniform(0.6, 1.4, 3)
        for _ in range(10):
            x = generator.uniform(6, 45)
            y = generator.uniform(-0.9, 0.9) * x
            heading = generator.uniform(-math.pi, math.pi)
            box = np.array([x, y, slope @ (x, y) - HEIGHT + size[2] / 2, *size, heading])
            offset = boxes[:, :2] - box[:2]
            along = offset @ [math.cos(heading), math.sin(heading)]
            across = offset @ [-math.sin(heading), math.cos(heading)]
            gap = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
            if ((np.abs(along) > size[0] / 2 + gap) | (np.abs(across) > size[1] / 2 + gap)).all():
                solids.append(Solid(box, generator.uniform(0.1, 0.6), -1))
                break
    return solids


def _directions(columns: int) -> np.ndarray:
    """(BEAMS·columns, 3) unit vectors, of beams from 2 degrees up to 24.9 degrees down over the 90 degrees ahead."""
    up = np.radians(np.linspace(2.0, -24.9, BEAMS))[:, None]
    turn = np.radians((np.arange(columns) + 0.5) / columns * 90 - 45)[None]
    vectors = np.stack(np.broadcast_arrays(np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)), -1)
    return vectors.reshape(-1, 3)


def _hits(directions: np.ndarray, solids: list[Solid]) -> np.ndarray:
    """(beams, solids) distances at which each beam from the origin enters each box; infinite where it does not."""
    ranges = np.full((len(directions), len(solids)), np.inf)
    for number, solid in enumerate(solids):
        x, y, z, length, width, height, heading = solid.box
        cos, sin = math.cos(heading), math.sin(heading)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        start, half = -turn @ (x, y, z), np.array([length, width, height]) / 2
        near = directions @ (np.array([x, y, z]) / math.dist((x, y, z), (0, 0, 0)))
        some = np.flatnonzero(near > math.cos(math.atan2(np.linalg.norm(half), math.dist((x, y, z), (0, 0, 0))) * 1.2))
        beams = directions[some] @ turn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = np.stack([(-half - start) / beams, (half - start) / beams])
        enters, leaves = np.nanmax(sides.min(0), 1), np.nanmin(sides.max(0), 1)
        ranges[some, number] = np.where((enters <= leaves) & (enters > 0), enters, np.inf)
    return ranges


def _ground(directions: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """(beams,) distances of the ground; infinite above the horizon."""
    falls = directions[:, :2] @ slope - directions[:, 2]
    return np.where(falls > 1e-6, HEIGHT / np.maximum(falls, 1e-6), np.inf)


def write_scenes(folder: str | Path, spec: ScenesSpec) -> Path:
    """Write a set, or do nothing if it is there; the folder is complete or absent, also with several processes.

    Returns:
        the folder.
    Raises:
        DatasetError: the folder holds something else, for example a set of another specification.
        OSError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        for name in ("velodyne", "calib", "label_2"):
            (temporary / "training" / name).mkdir(parents=True)
        (temporary / "ImageSets").mkdir()
        for number, split in enumerate(SPLITS):
            names = [f"{number}{index:05d}" for index in range(getattr(spec, split))]
            for index, name in enumerate(names):
                scene = render(spec, split, index)
                write_sweep(temporary / f"training/velodyne/{name}.bin", scene.points)
                write_calibration(temporary / f"training/calib/{name}.txt", CALIBRATION)
                write_labels(temporary / f"training/label_2/{name}.txt", scene.labels)
            (temporary / f"ImageSets/{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")

    return generated_folder(folder, {"version": VERSION, **asdict(spec)}, write)


class Scenes(KittiFrames):
    """Rendered scenes; they are made when the set is first used.

    Args:
        split: "train", "val" or "test".
        root: folder that the set is kept in; None for the user's cache folder.
        spec: fields of `ScenesSpec`.
        options: further arguments of `KittiFrames`.
    """

    def __init__(
        self, split: str, *, root: str | None = None, spec: Mapping[str, int] | None = None, **options: Any
    ) -> None:
        checked = checked_spec(ScenesSpec, split, spec)
        folder = cache_folder(checked.folder_name) if root is None else Path(root).expanduser() / checked.folder_name
        super().__init__(write_scenes(folder, checked), split=split, **{"classes": CLASSES, **options})

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Nothing can be missing, as the set is made when it is first used; looks at the arguments.

        Raises:
            DatasetError: an argument is wrong.
        """
        checked_spec(ScenesSpec, split, spec)
