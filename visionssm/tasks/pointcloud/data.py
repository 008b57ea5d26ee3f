"""Frames of KITTI's 3-D object detection: sweeps with boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.problems import Mistake, Problems, checked_classes
from visionssm.tasks.pointcloud.augment import Cloud, build_changes, wrapped
from visionssm.tasks.pointcloud.kitti import (
    IMAGE_SIZE,
    Calibration,
    Label,
    lidar_boxes,
    read_calibration,
    read_labels,
    read_sweep,
)

CLASSES = ("Car", "Pedestrian", "Cyclist")
OTHER_CLASSES = ("Van", "Truck", "Person_sitting", "Tram", "Misc")
DONT_CARE = "DontCare"
HELP = (
    "A set in KITTI's format has ImageSets/SPLIT.txt with the names of the frames, and training/velodyne/NAME.bin, "
    "training/calib/NAME.txt and training/label_2/NAME.txt. Point to yours with root in the data set's config; "
    "https://www.cvlibs.net/datasets/kitti is where KITTI's is."
)
FileT = TypeVar("FileT")

MOST_WITHOUT_BOXES = 50
"""Frames in a row that may be left without a box while training."""


@dataclass(frozen=True)
class Frame:
    """What is known of a frame beside its points.

    Attributes:
        name: of its files.
        calibration: of the camera.
        size: width and height of the picture.
        labels: all of them, those of other classes too.
    """

    name: str
    calibration: Calibration
    size: tuple[int, int]
    labels: tuple[Label, ...]


class KittiFrames(Dataset):
    """A split of a set in KITTI's format, with the points that the camera sees.

    A sample is a dict: `inputs` (N, 4) float32 x, y, z, intensity; `boxes` (M, 7) float32 and `labels` (M,) int64 of
    the classes; `frame`, a `Frame`; `index` int.

    Args:
        root: folder of the set.
        split: its file in ImageSets, without suffix.
        classes: that are looked for, in the order of their numbers.
        point_range: x, y, z of the lowest and of the highest corner, in metres; points outside of it as seen from above
            are left out, and while training boxes whose centre is outside. None for everything.
        changes: random changes while training, `[dict(type="Flip"), …]`, in their order.
        wrong: "raise" tells all mistakes at once: files that are missing or damaged, unknown classes, sizes that are
            not positive, names that are there twice; "skip" leaves these frames out and logs how many.
    Raises:
        DatasetError: the set is missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str,
        classes: Sequence[str] = CLASSES,
        point_range: Sequence[float] | None = None,
        changes: Sequence[Mapping[str, Any]] | None = None,
        wrong: str = "raise",
    ) -> None:
        _check_there(root, split)
        self.classes = checked_classes(classes)
        if point_range is not None and len(point_range) != 6:
            raise DatasetError(f"point_range={list(point_range)} must be six numbers, x, y, z of two corners")
        self.point_range = None if point_range is None else np.array(point_range, dtype=np.float64)
        self.changes = build_changes(changes)
        self.evaluating = False
        self.folder = Path(root).expanduser() / "training"
        self.frames: list[Frame] = []
        problems = Problems()
        seen: set[str] = set()
        for name in _names(Path(root).expanduser() / "ImageSets" / f"{split}.txt"):
            try:
                if name in seen:
                    raise Mistake("names that are there twice")
                seen.add(name)
                self.frames.append(self._frame(name))
            except Mistake as mistake:
                problems.add(mistake.kind, repr(name) + (f" ({mistake.detail})" if mistake.detail else ""))
        problems.settle(repr(str(self.folder)), wrong)
        if not self.frames:
            raise DatasetError(f"{str(self.folder.absolute())!r} has no usable frame of {split!r}. {HELP}")

    @staticmethod
    def check_available(root: str | Path, split: str, **_: Any) -> None:
        """Look whether the set and the split are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        _check_there(root, split)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names; number 0 is the first."""
        return {"classes": list(self.classes)}

    def sample_name(self, index: int) -> str:
        """Name of the frame's files."""
        return self.frames[index].name

    def for_evaluation(self) -> None:
        """Give every frame as it is: unchanged, in order, with all boxes."""
        self.evaluating = True

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.evaluating:
            return self._sample(self._cropped(self._cloud(index)), index)
        generator = np.random.default_rng(int(torch.randint(2**31, ())))
        for _ in range(MOST_WITHOUT_BOXES):
            cloud = self._cloud(index)
            for change in self.changes:
                cloud = change(cloud, generator)
            cloud.boxes[:, 6] = wrapped(cloud.boxes[:, 6])
            cloud = self._without_others(self._cropped(cloud))
            if len(cloud.boxes):
                return self._sample(cloud._replace(points=generator.permutation(cloud.points)), index)
            index = int(generator.integers(len(self)))
        raise DatasetError(
            f"{str(self.folder)!r}: {MOST_WITHOUT_BOXES} frames in a row have no box of {', '.join(self.classes)} in "
            "the range to train on"
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def _frame(self, name: str) -> Frame:
        """A frame's small files.

        Raises:
            Mistake: one is missing or wrong.
        """
        sweep = self.folder / "velodyne" / f"{name}.bin"
        if not sweep.is_file():
            raise Mistake("frames without a sweep in velodyne/")
        size = sweep.stat().st_size
        if size % 16:
            raise Mistake("sweeps that are no rows of four float32", f"{size:,} bytes, {size % 16} are left over")
        calibration = self._read("calib", name, read_calibration)
        labels = tuple(self._read("label_2", name, read_labels))
        self._check_labels(labels)
        return Frame(name, calibration, self._size(name), labels)

    def _read(self, part: str, name: str, read: Callable[[Path], FileT]) -> FileT:
        path = self.folder / part / f"{name}.txt"
        if not path.is_file():
            raise Mistake(f"frames without a file in {part}/")
        try:
            return read(path)
        except UnreadableFileError as error:
            raise Mistake(f"files of {part}/ that cannot be read", error.reason) from error

    def _check_labels(self, labels: Sequence[Label]) -> None:
        known = {*self.classes, *CLASSES, *OTHER_CLASSES, DONT_CARE}
        odd = sorted({label.kind for label in labels} - known)
        if odd:
            raise Mistake("labels of unknown classes", ", ".join(odd[:3]))
        if any(min(label.size) <= 0 for label in labels if label.kind != DONT_CARE):
            raise Mistake("labels whose sizes are not positive")

    def _size(self, name: str) -> tuple[int, int]:
        path = self.folder / "image_2" / f"{name}.png"
        if not path.is_file():
            return IMAGE_SIZE
        try:
            with Image.open(path) as image:
                return image.size
        except OSError as error:
            raise Mistake("pictures of image_2/ that cannot be read", str(error)) from error

    def _cloud(self, index: int) -> Cloud:
        """The points that the camera sees, and all objects."""
        frame = self.frames[index]
        try:
            points = read_sweep(self.folder / "velodyne" / f"{frame.name}.bin")
        except UnreadableFileError as error:
            raise DatasetError(str(error)) from error
        points = points[frame.calibration.sees(points.astype(np.float64), frame.size)]
        labels = [label for label in frame.labels if label.kind != DONT_CARE]
        numbers = [self.classes.index(x.kind) if x.kind in self.classes else -1 for x in labels]
        return Cloud(points, lidar_boxes(labels, frame.calibration), np.array(numbers, dtype=np.int64))

    def _cropped(self, cloud: Cloud) -> Cloud:
        """The cloud without points outside of the range, as seen from above."""
        if self.point_range is None:
            return cloud
        low, high = self.point_range[:2], self.point_range[3:5]
        inside = ((cloud.points[:, :2] >= low) & (cloud.points[:, :2] <= high)).all(1)
        return cloud._replace(points=cloud.points[inside])

    def _without_others(self, cloud: Cloud) -> Cloud:
        """The cloud without boxes of other classes, and those outside of the range."""
        good = cloud.labels >= 0
        if self.point_range is not None:
            centre = cloud.boxes[:, :3]
            good &= ((centre >= self.point_range[:3]) & (centre <= self.point_range[3:])).all(1)
        return cloud._replace(boxes=cloud.boxes[good], labels=cloud.labels[good])

    def _sample(self, cloud: Cloud, index: int) -> dict[str, Any]:
        good = cloud.labels >= 0
        return {
            "inputs": torch.from_numpy(np.ascontiguousarray(cloud.points, dtype=np.float32)),
            "boxes": torch.from_numpy(cloud.boxes[good].astype(np.float32)),
            "labels": torch.from_numpy(cloud.labels[good]),
            "frame": self.frames[index],
            "index": index,
        }


def _check_there(root: str | Path, split: str) -> None:
    folder = Path(root).expanduser()
    for place in (folder / "training" / "velodyne", folder / "ImageSets" / f"{split}.txt"):
        if not place.exists():
            raise DatasetError(f"data set not found: looked for {str(place.absolute())!r}. {HELP}")


def _names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the names of the frames in {str(path)!r}: {error}") from error
