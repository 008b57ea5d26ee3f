"""The files of a KITTI frame (Geiger et al. 2012): sweep, calibration, labels; and boxes in both coordinates.

In LiDAR coordinates x is ahead, y to the left, z up, and a box is x, y, z of its centre, length, width, height, heading
counter-clockwise. In those of the rectified camera x is to the right, y down, z ahead, and a label gives height, width,
length, the middle of the lower face, and the rotation about y.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import regular_file
from visionssm.files import complete_or_absent

IMAGE_SIZE = (1242, 375)
"""Width and height of most of KITTI's pictures: of a frame that has none."""

POINT = ("x", "y", "z", "intensity")
NUSCENES_POINT = (*POINT, "ring")
NUSCENES_SUFFIX = ".pcd.bin"
MOST_POINTS = 10_000_000
_LEVELS = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))
"""Least height in the picture, and most occlusion and truncation, of easy, moderate and hard objects."""

_MOST_TEXT = 1 << 20
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """From LiDAR to the rectified camera, and from there to its picture.

    Attributes:
        projection: (3, 4) P2.
        rectification: (3, 3) R0_rect.
        velo_to_cam: (3, 4) Tr_velo_to_cam.
    """

    projection: np.ndarray
    rectification: np.ndarray
    velo_to_cam: np.ndarray

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) of the LiDAR to (N, 3) of the rectified camera."""
        return (points @ self.velo_to_cam[:, :3].T + self.velo_to_cam[:, 3]) @ self.rectification.T

    def to_lidar(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) of the rectified camera to (N, 3) of the LiDAR."""
        turned = np.linalg.inv(self.rectification) @ points.T - self.velo_to_cam[:, 3:]
        return (np.linalg.inv(self.velo_to_cam[:, :3]) @ turned).T

    def to_image(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) of the rectified camera to (N, 2) pixels and (N,) depths, negative behind the camera."""
        projected = points @ self.projection[:, :3].T + self.projection[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):  # in the plane of the camera there is no picture
            pixels = projected[:, :2] / points[:, 2:3]
        return pixels, projected[:, 2] - self.projection[2, 3]

    def fits(self, size: Sequence[int]) -> bool:
        """Whether the picture of this width and height may be the camera's: its axis goes through the middle half."""
        centre = self.projection[:2, 2] / self.projection[2, 2] if self.projection[2, 2] else np.full(2, np.nan)
        return bool((np.abs(centre / np.asarray(size) - 0.5) <= 0.25).all())

    def sees(self, points: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """(N,) whether (N, 3) points of the LiDAR are within a picture of this width and height."""
        pixels, depth = self.to_image(self.to_camera(points[:, :3]))
        with np.errstate(invalid="ignore"):
            return ((pixels >= 0) & (pixels < np.asarray(size))).all(1) & (depth >= 0)


AXES = Calibration(
    projection=np.eye(3, 4),
    rectification=np.eye(3),
    velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
)
"""Of frames without a camera: coordinates change their names, no picture is meant."""


@dataclass(frozen=True)
class Label:
    """A line of a label file.

    Attributes:
        kind: class name, or "DontCare".
        truncated: share of the object outside of the picture; −1 if it is not known.
        occluded: 0 fully visible to 2 hardly, 3 unknown; −1 if it is not known.
        alpha: heading as the camera sees it.
        box: left, top, right, bottom in pixels.
        size: height, width, length in metres.
        location: of the middle of the lower face, in coordinates of the rectified camera.
        rotation: about the camera's y axis.
        score: of a prediction; None for a truth.
    """

    kind: str
    truncated: float
    occluded: int
    alpha: float
    box: tuple[float, float, float, float]
    size: tuple[float, float, float]
    location: tuple[float, float, float]
    rotation: float
    score: float | None = None

    def __str__(self) -> str:
        numbers = (self.alpha, *self.box, *self.size, *self.location, self.rotation)
        score = "" if self.score is None else f" {self.score:.4f}"
        return f"{self.kind} {self.truncated:.2f} {self.occluded} " + " ".join(f"{x:.2f}" for x in numbers) + score


@dataclass(frozen=True)
class Ground:
    """The plane of the road in a frame.

    Attributes:
        plane: (4,) a, b, c, d of ax + by + cz + d = 0 in coordinates of the rectified camera, b < 0.
        calibration: of the frame.
    """

    plane: np.ndarray
    calibration: Calibration

    def height(self, points: np.ndarray) -> np.ndarray:
        """(N,) z of the road, in coordinates of the LiDAR, below or above (N, 3) points."""
        camera = self.calibration.to_camera(points)
        a, b, c, d = self.plane
        camera[:, 1] = (-d - a * camera[:, 0] - c * camera[:, 2]) / b
        return self.calibration.to_lidar(camera)[:, 2]


def difficulty(label: Label) -> int:
    """0 easy, 1 moderate, 2 hard, −1 for an object that is too small, hidden or cut off to be one of these."""
    height = label.box[3] - label.box[1] + 1
    for level, (least, occluded, truncated) in enumerate(_LEVELS):
        if height >= least and label.occluded <= occluded and label.truncated <= truncated:
            return level
    return -1


def parse_label(line: str) -> Label:
    """A label of its line.

    Raises:
        ValueError: it has not 15 or 16 columns, or one that is no number.
    """
    kind, *rest = line.split()
    if len(rest) not in (14, 15):
        raise ValueError(f"{len(rest) + 1} columns in place of 15, or 16 with a score")
    numbers = [float(x) for x in rest]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is not finite")
    truncated, occluded, alpha, *others = numbers
    left, top, right, bottom, height, width, length, x, y, z, rotation = others[:11]
    return Label(
        kind=kind,
        truncated=truncated,
        occluded=int(occluded),
        alpha=alpha,
        box=(left, top, right, bottom),
        size=(height, width, length),
        location=(x, y, z),
        rotation=rotation,
        score=others[11] if len(others) > 11 else None,
    )


def read_labels(path: Path) -> list[Label]:
    """The labels of a file.

    Raises:
        UnreadableFileError: (a ValueError) it is missing or a line is none of KITTI's; says which.
    """
    labels = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            if line.strip():
                labels.append(parse_label(line))
        except ValueError as error:
            raise UnreadableFileError(path, f"line {number} is no label of KITTI's: {error}") from error
    return labels


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Write a label file, complete or not at all."""
    with complete_or_absent(path) as temporary:
        temporary.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def read_calibration(path: Path) -> Calibration:
    """A calibration file.

    Raises:
        UnreadableFileError: (a ValueError) it is missing, or has not the three matrices.
    """
    rows: dict[str, np.ndarray] = {}
    shapes = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
    for line in _text(path).splitlines():
        name, _, values = line.partition(":")
        if name.strip() in shapes:
            try:
                rows[name.strip()] = np.array([float(x) for x in values.split()]).reshape(shapes[name.strip()])
            except ValueError as error:
                raise UnreadableFileError(path, f"{name.strip()} is no matrix {shapes[name.strip()]}") from error
    missing = [name for name in shapes if name not in rows]
    if missing:
        raise UnreadableFileError(path, f"it is no calibration of KITTI's: {', '.join(missing)} is missing")
    calibration = Calibration(rows["P2"], rows["R0_rect"], rows["Tr_velo_to_cam"])
    square = (calibration.projection[:, :3], calibration.rectification, calibration.velo_to_cam[:, :3])
    if not all(np.isfinite(x).all() for x in rows.values()) or any(abs(np.linalg.det(x)) < 1e-6 for x in square):
        raise UnreadableFileError(path, "its matrices are not finite or cannot be inverted")
    return calibration


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration file, complete or not at all."""
    rows = {
        "P2": calibration.projection,
        "R0_rect": calibration.rectification,
        "Tr_velo_to_cam": calibration.velo_to_cam,
    }
    text = "".join(f"{name}: {' '.join(f'{x:.9e}' for x in matrix.flatten())}\n" for name, matrix in rows.items())
    with complete_or_absent(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_plane(path: Path) -> np.ndarray:
    """(4,) the plane of the road, a, b, c, d of the rectified camera's coordinates, normalised and b < 0.

    Raises:
        UnreadableFileError: (a ValueError) it is missing, or its fourth line is no plane that a road can have.
    """
    lines = _text(path).splitlines()
    try:
        plane = np.array([float(x) for x in lines[3].split()]).reshape(4)
    except (IndexError, ValueError) as error:
        raise UnreadableFileError(path, "its fourth line is not the four numbers of a plane") from error
    length = np.linalg.norm(plane[:3])
    if not np.isfinite(plane).all() or abs(plane[1]) < 0.1 * length or length < 1e-9:
        raise UnreadableFileError(path, f"its plane {plane.tolist()} stands upright or has numbers that are not finite")
    return plane / (length if plane[1] < 0 else -length)


def read_sweep(path: Path, columns: Sequence[str] = POINT) -> np.ndarray:
    """(N, F) float32 points of a .bin file; those with a number that is not finite are left out and told in the log.

    Args:
        path: of the file.
        columns: names of the F numbers of a point.
    Raises:
        UnreadableFileError: (a ValueError) it is missing, no list of points, not named .bin, too large, or no point is
            finite.
    """
    width = 4 * len(columns)
    data = _bytes(path, MOST_POINTS * width)
    if path.suffix.lower() != ".bin":  # nothing in a sweep says that it is one: any file of some length would be points
        raise UnreadableFileError(path, "it is no sweep, whose name ends in .bin")
    if len(data) % width:
        raise UnreadableFileError(
            path,
            f"its {len(data):,} bytes are no multiple of {width}, {len(data) % width} are left over; a sweep is "
            f"little-endian float32, {len(columns)} per point ({', '.join(columns)})",
        )
    return finite_points(path, np.frombuffer(data, "<f4").reshape(-1, len(columns)).astype(np.float32))


def read_points(path: Path, numbers: int = len(POINT)) -> np.ndarray:
    """(N, numbers) points of a .bin file for a model that takes so many numbers of each; see `read_sweep`.

    The file has as many: x, y, z, intensity, and what the model was trained with. Files that nuScenes publishes,
    NAME.pcd.bin, have the number of the laser as a fifth, in whose place comes the age of the sweep that models for
    nuScenes take: 0 seconds.

    Raises:
        UnreadableFileError: (a ValueError) see `read_sweep`; or the model takes more than nuScenes' files have.
    """
    if not path.name.lower().endswith(NUSCENES_SUFFIX):
        further = (f"number {number}" for number in range(len(POINT) + 1, numbers + 1))
        return read_sweep(path, (*POINT, *further)[:numbers])
    points = read_sweep(path, NUSCENES_POINT)
    if numbers > len(NUSCENES_POINT):
        raise UnreadableFileError(path, f"it has {len(NUSCENES_POINT)} numbers per point, the model takes {numbers}")
    points[:, len(POINT) :] = 0
    return points[:, :numbers]


def finite_points(path: Path, points: np.ndarray) -> np.ndarray:
    """The points of a file of which all numbers are finite; how many are left out is told in the log.

    Raises:
        UnreadableFileError: (a ValueError) it has points, and none is finite.
    """
    good = np.isfinite(points).all(1)
    if not good.all():
        if not good.any():
            raise UnreadableFileError(path, f"none of its {len(points):,} points has finite numbers")
        _logger.warning("%s: %d points with NaN or infinite numbers are left out", path, (~good).sum())
    return points[good]


def write_sweep(path: Path, points: np.ndarray) -> None:
    """Write (N, 4) points, complete or not at all."""
    with complete_or_absent(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(points, dtype="<f4").tobytes())


def _bytes(path: Path, most: int) -> bytes:
    try:
        regular_file(path)
        size = path.stat().st_size
        if size > most:
            raise UnreadableFileError(path, f"its {size:,} bytes are more than the {most:,} that are read")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or type(error).__name__) from error


def _text(path: Path) -> str:
    try:
        return _bytes(path, _MOST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(path, "it is no text") from error


# -- boxes -------------------------------------------------------------------------------------------------------------


def lidar_boxes(labels: Sequence[Label], calibration: Calibration) -> np.ndarray:
    """(M, 7) float64 boxes in LiDAR coordinates."""
    if not labels:
        return np.zeros((0, 7))
    height, width, length = np.array([label.size for label in labels]).T
    x, y, z = calibration.to_lidar(np.array([label.location for label in labels])).T
    heading = -(np.pi / 2 + np.array([label.rotation for label in labels]))
    return np.stack([x, y, z + height / 2, length, width, height, heading], 1)


def labels_of_boxes(
    boxes: np.ndarray,
    kinds: Sequence[str],
    calibration: Calibration,
    size: Sequence[int],
    scores: Sequence[float] | None = None,
) -> list[Label]:
    """(M, 7) boxes in LiDAR coordinates as KITTI's labels; truncation and occlusion are not known.

    Args:
        boxes: see above.
        kinds: class names.
        calibration: of the frame.
        size: width and height of the picture, which the boxes in pixels are clipped to.
        scores: of predictions.
    """
    bottoms = calibration.to_camera(boxes[:, :3] - [[0, 0, 0.5]] * boxes[:, 5:6])
    labels = []
    for number, (box, location) in enumerate(zip(boxes, bottoms, strict=True)):
        length, width, height = box[3:6]
        rotation = _turned(-box[6] - np.pi / 2)
        pixels = image_box(location, (height, width, length), rotation, calibration)
        limits = np.array([*size, *size]) - 1
        labels.append(
            Label(
                kind=kinds[number],
                truncated=-1,
                occluded=-1,
                alpha=_turned(-math.atan2(-box[1], box[0]) + rotation),
                box=tuple(np.clip(pixels, 0, limits).tolist()),
                size=(float(height), float(width), float(length)),
                location=tuple(location.tolist()),
                rotation=rotation,
                score=None if scores is None else float(scores[number]),
            )
        )
    return labels


def image_box(location: np.ndarray, size: Sequence[float], rotation: float, calibration: Calibration) -> np.ndarray:
    """Left, top, right, bottom of what surrounds the projected corners of a box, not clipped to the picture.

    Args:
        location: of the middle of the lower face, in camera coordinates.
        size: height, width, length.
        rotation: about the camera's y axis.
        calibration: of the frame.
    """
    height, width, length = size
    x = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * length / 2
    z = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * width / 2
    y = np.array([0, 0, 0, 0, -1, -1, -1, -1]) * height
    cos, sin = math.cos(rotation), math.sin(rotation)
    corners = np.stack([x * cos + z * sin, y, z * cos - x * sin], 1) + location
    corners[:, 2] = np.maximum(corners[:, 2], 1e-2)  # what is behind the camera
    pixels, _ = calibration.to_image(corners)
    return np.concatenate([pixels.min(0), pixels.max(0)])


def _turned(angle: float) -> float:
    """Within (−π, π]."""
    return float(angle - 2 * math.pi * math.ceil((angle - math.pi) / (2 * math.pi)))
