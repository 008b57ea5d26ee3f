"""Frames of nuScenes, Waymo, Argoverse 2 and ONCE from the info files that OpenPCDet's converters write.

An info file is a list with a dict per frame. It is JSON, or a pickle that is read into numbers, texts, arrays and
containers and into nothing else: nothing in it can run. Names of files in it stay below the data set's folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visionssm.checkpoints.pickles import UnsafePickleError, unpickle
from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.problems import Mistake, Problems
from visionssm.tasks.pointcloud.augment import Cloud
from visionssm.tasks.pointcloud.data import Frame
from visionssm.tasks.pointcloud.frames import SweepFrames, in_another_case
from visionssm.tasks.pointcloud.kitti import (
    AXES,
    IMAGE_SIZE,
    MOST_POINTS,
    NUSCENES_POINT,
    finite_points,
    labels_of_boxes,
    read_sweep,
)
from visionssm.tasks.pointcloud.pasting import pasting_from

MOST_BYTES = 4 << 30
MOST_INSTRUCTIONS = 50_000_000
MOST_FRAMES = 1_000_000
MOST_OBJECTS = 10_000
MOST_SWEEPS = 100
_NAME = re.compile(r"[\w][\w.\-]{0,199}", re.ASCII)
_NEAR_EGO = 1.0
"""Metres around the sensor, along x and y, in which points of earlier sweeps are of the vehicle itself."""


@dataclass(frozen=True)
class Sweep:
    """A file of points.

    Attributes:
        path: below the data set's folder.
        to_frame: (4, 4) from its coordinates to the frame's; None where they are the same.
        age: seconds before the frame.
    """

    path: str
    to_frame: np.ndarray | None = None
    age: float = 0.0


@dataclass(frozen=True)
class Info:
    """What is known of a frame.

    Attributes:
        name: of the frame.
        sweeps: its own first, then earlier ones.
        boxes: (M, 7), or (M, 9) with velocities.
        kinds: class names.
        counts: points in each box; −1 where it is not told.
    """

    name: str
    sweeps: tuple[Sweep, ...]
    boxes: np.ndarray
    kinds: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True)
class Source:
    """How a data set says what `Info` has.

    Attributes:
        parse: a dict of an info file to an `Info`; with the number of sweeps that are wanted.
        points: reads a file of points.
        with_time: whether points get the age of their sweep as a last number.
        by_sequence: whether there is an info file for every sequence, ROOT/SEQUENCE/SEQUENCE.pkl, and the given file
            lists the sequences.
    """

    parse: Callable[[Mapping[str, Any], int], Info]
    points: Callable[[Path], np.ndarray]
    with_time: bool = False
    by_sequence: bool = False


# -- parts of an info --------------------------------------------------------------------------------------------------


def _below(path: Any) -> str:
    """The name of a file below the data set's folder.

    Raises:
        ValueError: it leads out of it.
    """
    if not isinstance(path, str) or not path or len(path) > 1000 or "\0" in path or "\\" in path:
        raise ValueError(f"the file name {str(path)[:50]!r}")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"the file name {path[:50]!r}, which leads out of the data set's folder")
    return str(parts)


def _plain_name(value: Any) -> str:
    text = str(value)
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not _NAME.fullmatch(text):
        raise ValueError(f"the name {text[:50]!r}")
    return text


def _numbers(value: Any, *columns: int) -> np.ndarray:
    """(M, c) float64, c one of `columns`; NaN becomes 0 beyond the seventh column, where velocities are."""
    array = np.asarray(value, dtype=np.float64)
    array = array.reshape(0, columns[0]) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] not in columns or len(array) > MOST_OBJECTS:
        raise ValueError(f"an array {array.shape} in place of rows of {' or '.join(map(str, columns))} numbers")
    array[:, 7:] = np.nan_to_num(array[:, 7:], posinf=0, neginf=0)
    if not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    return array


def _info(name: str, sweeps: Sequence[Sweep], boxes: Any, kinds: Any, counts: Any) -> Info:
    rows = _numbers(boxes, 7, 9)
    names = tuple(str(x) for x in (kinds.tolist() if isinstance(kinds, np.ndarray) else list(kinds)))
    told = np.full(len(rows), -1) if counts is None else np.asarray(counts, dtype=np.int64).reshape(-1)
    if not len(rows) == len(names) == len(told):
        raise ValueError(f"{len(rows)} boxes, {len(names)} names and {len(told)} numbers of points")
    if (rows[:, 3:6] <= 0).any():
        raise ValueError("boxes whose sizes are not positive")
    return Info(name, tuple(sweeps), rows, names, told)


def _nuscenes(info: Mapping[str, Any], sweeps: int) -> Info:
    files = [Sweep(_below(info["lidar_path"]))]
    for earlier in list(info.get("sweeps") or ())[: sweeps - 1]:
        matrix = earlier.get("transform_matrix")
        to_frame = None if matrix is None else _numbers(matrix, 4)
        if to_frame is not None and to_frame.shape != (4, 4):
            raise ValueError("a transform_matrix that is not 4 by 4")
        age = float(earlier["time_lag"])
        if not math.isfinite(age):
            raise ValueError("a time_lag that is not finite")
        files.append(Sweep(_below(earlier["lidar_path"]), to_frame, age))
    name = _plain_name(info.get("token") or PurePosixPath(files[0].path).stem)
    return _info(name, files, info["gt_boxes"], info["gt_names"], info.get("num_lidar_pts"))


def _waymo(info: Mapping[str, Any], _: int) -> Info:
    cloud, found = info["point_cloud"], info["annos"]
    sequence, number = _plain_name(cloud["lidar_sequence"]), int(cloud["sample_idx"])
    if not 0 <= number < 10_000:
        raise ValueError(f"sample_idx={number}")
    sweep = Sweep(f"{sequence}/{number:04d}.npy")
    counts = found.get("num_points_in_gt")
    return _info(f"{sequence}_{number:04d}", [sweep], found["gt_boxes_lidar"], found["name"], counts)


def _once(info: Mapping[str, Any], _: int) -> Info:
    sequence, frame, found = _plain_name(info["sequence_id"]), _plain_name(info["frame_id"]), info["annos"]
    sweep = Sweep(f"data/{sequence}/lidar_roof/{frame}.bin")
    counts = found.get("num_points_in_gt")
    return _info(f"{sequence}_{frame}", [sweep], found["boxes_3d"], found["name"], counts)


def _argoverse2(info: Mapping[str, Any], _: int) -> Info:
    name, found = _plain_name(info["point_cloud"]["lidar_idx"]), info["annos"]
    boxes = found.get("gt_boxes_lidar")
    if boxes is None:
        turns = np.asarray(found["rotation_y"], dtype=np.float64).reshape(-1, 1)
        boxes = np.concatenate([_numbers(found["location"], 3), _numbers(found["dimensions"], 3), turns], 1)
    sweep = Sweep(f"training/velodyne/{name}.bin")
    return _info(name, [sweep], boxes, found["name"], found.get("num_points_in_gt"))


def _of_five(path: Path) -> np.ndarray:
    """nuScenes' points without the number of the laser."""
    return read_sweep(path, NUSCENES_POINT)[:, :4]


def _of_six(path: Path) -> np.ndarray:
    """Waymo's points outside of its no-label zones; intensity and elongation through tanh."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UnreadableFileError(path, f"it is no array of NumPy: {error}") from error
    if array.ndim != 2 or array.shape[1] != 6 or array.dtype.kind != "f" or len(array) > MOST_POINTS:
        raise UnreadableFileError(path, f"it is an array {array.shape} of {array.dtype}, not of points with 6 numbers")
    points = finite_points(path, np.array(array, dtype=np.float32))
    points = points[points[:, 5] == -1, :5]
    points[:, 3:] = np.tanh(points[:, 3:])
    return points


SOURCES: dict[str, Source] = {
    "nuscenes": Source(_nuscenes, _of_five, with_time=True),
    "waymo": Source(_waymo, _of_six, by_sequence=True),
    "argoverse2": Source(_argoverse2, read_sweep),
    "once": Source(_once, read_sweep),
}
"""By the name of the data set."""


def read_infos(path: Path) -> list[Any]:
    """The list of an info file, a pickle or JSON.

    Raises:
        UnreadableFileError: (a ValueError) it is missing, too large, damaged, no list, or wants to run code.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UnreadableFileError(path, f"it has more than the {MOST_BYTES:,} bytes that are read")
        content = path.read_bytes()
        if path.suffix.lower() == ".json":
            infos = json.loads(content)
        else:
            infos = unpickle(io.BytesIO(content), len(content), _no_tensors, MOST_INSTRUCTIONS)
    except UnsafePickleError as error:
        raise UnreadableFileError(
            path, f"it wants to run code, and is refused: {', '.join(error.names)[:200]}"
        ) from error
    except UnreadableFileError:
        raise
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or type(error).__name__) from error
    except Exception as error:  # damaged pickles end in anything: struct.error, KeyError, EOFError, …
        raise UnreadableFileError(path, f"it is damaged, or no info file ({str(error)[:200]})") from error
    if not isinstance(infos, list) or len(infos) > MOST_FRAMES:
        raise UnreadableFileError(path, f"it holds no list of frames, of which {MOST_FRAMES:,} are read at most")
    return infos


def _no_tensors(*_: Any) -> Any:
    raise ValueError("an info file has no tensors")


# -- the data set ------------------------------------------------------------------------------------------------------


class InfoFrames(SweepFrames):
    """Frames of nuScenes, Waymo, Argoverse 2 or ONCE; see `SweepFrames`.

    Points are x, y, z, intensity, and in Waymo the elongation, in nuScenes the age of their sweep in seconds. A frame's
    evaluation is KITTI's without a camera (`KittiMetric(least_points=1)`); the data sets' own measures are not here.

    Args:
        root: folder of the set, which the files' names in the infos are below.
        infos: file of infos, below `root`; for Waymo a text file that lists the sequences, each of which has its own.
        source: name in `SOURCES`.
        classes: that are looked for, in the order of their numbers.
        point_range, changes, crop_height: as of `SweepFrames`.
        pasting: as of `KittiFrames`.
        sweeps: of a frame, the earlier ones included, where the infos name them.
        interval: every so many-th frame is used.
        wrong: "raise" tells all mistakes at once, "skip" leaves these frames out and logs how many.
    Raises:
        DatasetError: the set is missing or its infos are wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        infos: str,
        source: str,
        classes: Sequence[str],
        point_range: Sequence[float] | None = None,
        changes: Sequence[Mapping[str, Any]] | None = None,
        crop_height: bool = False,
        pasting: Mapping[str, Any] | None = None,
        sweeps: int = 1,
        interval: int = 1,
        wrong: str = "raise",
    ) -> None:
        self.check_available(root, infos, source)
        super().__init__(classes, point_range, changes, crop_height)
        if not 1 <= sweeps <= MOST_SWEEPS or interval < 1:
            raise DatasetError(f"sweeps={sweeps} must be 1 to {MOST_SWEEPS}, and interval={interval} 1 or more")
        self.root, self.source = Path(root).expanduser(), SOURCES[source]
        problems = Problems()
        seen: set[str] = set()
        self.frames: list[Info] = []
        entries, told = self._entries(self.root / infos, problems)
        for number, entry in enumerate(entries[::interval]):
            try:
                info = self._checked(entry, sweeps)
                if info is None:
                    continue
                if info.name in seen:
                    raise Mistake("frames that are there twice", info.name)
                seen.add(info.name)
                self.frames.append(info)
            except Mistake as mistake:
                problems.add(mistake.kind, f"number {number * interval} ({mistake.detail})")
        problems.settle(repr(str(self.root / infos)), wrong)
        if not self.frames:
            raise DatasetError(f"{str(self.root / infos)!r} has no frame with labels")
        if pasting is not None:
            try:
                self.pasting = pasting_from(
                    self, **{"stamp": [source, str(self.root.absolute()), told, sweeps, interval], **pasting}
                )
            except TypeError as error:
                raise DatasetError(f"pasting={dict(pasting)!r}: {error}") from error

    @staticmethod
    def check_available(root: str | Path, infos: str, source: str, **_: Any) -> None:
        """Look whether the info file is there.

        Raises:
            DatasetError: it is missing, or the source is unknown.
        """
        if source not in SOURCES:
            raise DatasetError(f"source={source!r} is unknown; choose one of {', '.join(SOURCES)}")
        path = Path(root).expanduser() / infos
        if not path.is_file():
            raise DatasetError(
                f"data set not found: looked for {str(path.absolute())!r}. Convert {source} with OpenPCDet's tools, "
                "which write such infos, and point to the folder with root in the data set's config"
            )

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def _entries(self, path: Path, problems: Problems) -> tuple[list[Any], str]:
        """All frames' dicts, and a digest of times and sizes of the files that they come from."""
        files = [path]
        if self.source.by_sequence:
            names = [x.removesuffix(".tfrecord") for x in path.read_text(encoding="utf-8", errors="replace").split()]
            plain = [x for x in names if _NAME.fullmatch(x)]
            files = [self.root / x / f"{x}.pkl" for x in plain]
            for name in sorted(set(names).difference(plain)):
                problems.add("names of sequences that are no plain names", name[:50])
        entries: list[Any] = []
        digest = hashlib.sha256()
        for file in files:
            try:
                entries += read_infos(file)
                told = file.stat()
                digest.update(f"{file.name} {told.st_mtime_ns} {told.st_size}\n".encode())
            except UnreadableFileError as error:
                if not self.source.by_sequence:
                    raise DatasetError(str(error)) from error
                problems.add("infos of sequences that cannot be read", f"{file.name} ({error.reason})")
        return entries, digest.hexdigest()

    def _checked(self, entry: Any, sweeps: int) -> Info | None:
        """A frame's `Info`; None for a frame without labels.

        Raises:
            Mistake: the dict is none, the frame's points are missing, or a class's name has another case.
        """
        if isinstance(entry, Mapping) and "annos" not in entry and "gt_boxes" not in entry:
            return None
        try:
            info = self.source.parse(entry, sweeps)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            what = f"without {error}" if isinstance(error, KeyError) else str(error)[:100]
            raise Mistake("infos that are wrong", what) from error
        if not (self.root / info.sweeps[0].path).is_file():
            raise Mistake("frames without their points", info.sweeps[0].path)
        told = in_another_case(info.kinds, self.classes)
        if told is not None:
            raise Mistake("frames with classes in another case", told)
        return info

    # -- samples -------------------------------------------------------------------------------------------------------

    def cloud(self, index: int) -> Cloud:
        """The points of all sweeps in the frame's coordinates, and its objects; empty boxes only where it evaluates."""
        info = self.frames[index]
        try:
            points = np.concatenate([self._sweep(sweep, earlier > 0) for earlier, sweep in enumerate(info.sweeps)])
        except UnreadableFileError as error:
            raise DatasetError(str(error)) from error
        labels = np.array([self.classes.index(x) if x in self.classes else -1 for x in info.kinds], dtype=np.int64)
        some = np.ones(len(labels), dtype=bool) if self.evaluating else info.counts != 0
        return Cloud(points, info.boxes[some].copy(), labels[some])

    def _sweep(self, sweep: Sweep, earlier: bool) -> np.ndarray:
        points = self.source.points(self.root / sweep.path)
        if earlier:
            points = points[(np.abs(points[:, :2]) >= _NEAR_EGO).any(1)]
        if sweep.to_frame is not None:
            turned = points[:, :3].astype(np.float64) @ sweep.to_frame[:3, :3].T + sweep.to_frame[:3, 3]
            points = np.concatenate([turned.astype(np.float32), points[:, 3:]], 1)
        if self.source.with_time:
            points = np.concatenate([points, np.full((len(points), 1), sweep.age, np.float32)], 1)
        return points

    def _sample(self, cloud: Cloud, index: int) -> dict[str, Any]:
        info = self.frames[index]
        labels = tuple(labels_of_boxes(info.boxes, info.kinds, AXES, IMAGE_SIZE)) if self.evaluating else ()
        return {**super()._sample(cloud, index), "frame": Frame(info.name, AXES, IMAGE_SIZE, labels)}
