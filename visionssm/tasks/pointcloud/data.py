"""Frames of KITTI's 3-D object detection: sweeps with boxes."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.problems import Mistake, Problems
from visionssm.tasks.pointcloud.augment import Cloud
from visionssm.tasks.pointcloud.frames import SweepFrames, in_another_case
from visionssm.tasks.pointcloud.kitti import (
    IMAGE_SIZE,
    Calibration,
    Ground,
    Label,
    difficulty,
    lidar_boxes,
    read_calibration,
    read_labels,
    read_plane,
    read_sweep,
)
from visionssm.tasks.pointcloud.pasting import pasting_from

CLASSES = ("Car", "Pedestrian", "Cyclist")
OTHER_CLASSES = ("Van", "Truck", "Person_sitting", "Tram", "Misc")
DONT_CARE = "DontCare"
KINDS = (*CLASSES, *OTHER_CLASSES, DONT_CARE)
"""Of KITTI's labels."""

HELP = (
    "A set in KITTI's format has ImageSets/SPLIT.txt with the names of the frames, and training/velodyne/NAME.bin, "
    "training/calib/NAME.txt and training/label_2/NAME.txt. Point to yours with root in the data set's config; "
    "https://www.cvlibs.net/datasets/kitti is where KITTI's is."
)
FileT = TypeVar("FileT")

_NAME = re.compile(r"\w[\w.-]{0,199}")
_MOST_KEPT = 100_000
"""Small files whose contents are kept, so that a second data set of the same frames does not read them again."""


@dataclass(frozen=True)
class Frame:
    """What is known of a frame beside its points.

    Attributes:
        name: of its files.
        calibration: of the camera.
        size: width and height of the picture.
        labels: all of them, those of other classes too.
        ground: the road, if there is a file of its plane.
    """

    name: str
    calibration: Calibration
    size: tuple[int, int]
    labels: tuple[Label, ...]
    ground: Ground | None = None


class KittiFrames(SweepFrames):
    """A split of a set in KITTI's format, with the points that the camera sees; see `SweepFrames`.

    The intensity is the fourth number of a point; a sample's `frame` is a `Frame`.

    Args:
        root: folder of the set.
        split: its file in ImageSets, without suffix.
        classes: that are looked for, in the order of their numbers.
        point_range: x, y, z of the lowest and of the highest corner, in metres; points outside of it as seen from above
            are left out, and while training boxes whose centre is outside. None for everything.
        changes: random changes while training, `[dict(type="Flip"), …]`, in their order.
        pasting: objects of other frames that training samples get: `dict(counts=dict(Car=15, …))` and the further
            arguments of `visionssm.tasks.pointcloud.pasting.pasting_from`. They are put on the road of
            training/planes/NAME.txt where that is.
        wrong: "raise" tells all mistakes at once: files that are missing or damaged, unknown classes (car for Car
            too), sizes that are not positive, names that are there twice; "skip" leaves these frames out and logs how
            many.
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
        pasting: Mapping[str, Any] | None = None,
        wrong: str = "raise",
    ) -> None:
        _check_there(root, split)
        super().__init__(classes, point_range, changes)
        self.folder = Path(root).expanduser() / "training"
        self.frames: list[Frame] = []
        problems = Problems()
        seen: set[str] = set()
        for name in _names(Path(root).expanduser() / "ImageSets" / f"{split}.txt"):
            try:
                if not _NAME.fullmatch(name):  # names of files are made of it, to be read and to be written
                    raise Mistake("names of frames that are no plain names of files")
                if name in seen:
                    raise Mistake("names that are there twice")
                seen.add(name)
                self.frames.append(self._frame(name))
            except Mistake as mistake:
                problems.note(name, mistake)
        problems.settle(repr(str(self.folder)), wrong)
        if not self.frames:
            raise DatasetError(f"{str(self.folder.absolute())!r} has no usable frame of {split!r}. {HELP}")
        if pasting is not None:
            try:
                self.pasting = pasting_from(self, **{"stamp": self._stamp(), **pasting})
            except TypeError as error:
                raise DatasetError(f"pasting={dict(pasting)!r}: {error}") from error

    @staticmethod
    def check_available(root: str | Path, split: str, **_: Any) -> None:
        """Look whether the set and the split are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        _check_there(root, split)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def cloud(self, index: int) -> Cloud:
        """The points that the camera sees, and all objects."""
        frame = self.frames[index]
        try:
            points = read_sweep(self.folder / "velodyne" / f"{frame.name}.bin")
        except UnreadableFileError as error:
            raise DatasetError(str(error)) from error
        points = points[frame.calibration.sees(points.astype(np.float64), frame.size)]
        labels = _objects(frame)
        numbers = [self.classes.index(x.kind) if x.kind in self.classes else -1 for x in labels]
        return Cloud(points, lidar_boxes(labels, frame.calibration), np.array(numbers, dtype=np.int64))

    def worth_pasting(self, index: int) -> np.ndarray:
        """(M,) whether each object has one of KITTI's difficulties."""
        return np.array([difficulty(label) >= 0 for label in _objects(self.frames[index])], dtype=bool)

    def ground(self, index: int) -> Ground | None:
        """The road of a frame that has a file of its plane."""
        return self.frames[index].ground

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
        with_plane = (self.folder / "planes" / f"{name}.txt").is_file()
        ground = Ground(self._read("planes", name, read_plane), calibration) if with_plane else None
        return Frame(name, calibration, self._size(name), labels, ground)

    def _stamp(self) -> list[str]:
        """What the base of objects depends on: the folder, and times and sizes of the frames' files."""
        digest = hashlib.sha256()
        for frame in self.frames:
            for part in ("velodyne/{}.bin", "calib/{}.txt", "label_2/{}.txt"):
                told = (self.folder / part.format(frame.name)).stat()
                digest.update(f"{frame.name} {told.st_mtime_ns} {told.st_size}\n".encode())
        return [str(self.folder.absolute()), digest.hexdigest()]

    def _read(self, part: str, name: str, read: Callable[[Path], FileT]) -> FileT:
        path = self.folder / part / f"{name}.txt"
        if not path.is_file():
            raise Mistake(f"frames without a file in {part}/")
        try:
            return _kept(read, path)
        except UnreadableFileError as error:
            raise Mistake(f"files of {part}/ that cannot be read", error.reason) from error

    def _check_labels(self, labels: Sequence[Label]) -> None:
        kinds = {label.kind for label in labels}
        told = in_another_case(kinds, self.classes) or in_another_case(kinds - {*self.classes}, KINDS)
        if told is not None:
            raise Mistake("labels of classes in another case", told)
        odd = sorted(kinds - {*self.classes, *KINDS})
        if odd:
            raise Mistake("labels of unknown classes", ", ".join(odd[:3]))
        if any(min(label.size) <= 0 for label in labels if label.kind != DONT_CARE):
            raise Mistake("labels whose sizes are not positive")

    def _size(self, name: str) -> tuple[int, int]:
        path = self.folder / "image_2" / f"{name}.png"
        if not path.is_file():
            return IMAGE_SIZE
        try:
            return _kept(_image_size, path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Mistake("pictures of image_2/ that cannot be read", str(error)) from error


def _image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _kept(read: Callable[[Path], FileT], path: Path) -> FileT:
    """What a file holds, read again only when its time or its size has changed."""
    told = path.stat()
    return _version(read, path, told.st_mtime_ns, told.st_size)  # type: ignore[return-value]


@functools.lru_cache(maxsize=_MOST_KEPT)
def _version(read: Callable[[Path], object], path: Path, time: int, size: int) -> object:
    return read(path)


def _objects(frame: Frame) -> list[Label]:
    """Labels that are of an object."""
    return [label for label in frame.labels if label.kind != DONT_CARE]


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
