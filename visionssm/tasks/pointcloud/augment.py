"""Random changes of point clouds and their boxes while training (Yan et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from visionssm.data.errors import DatasetError


class Cloud(NamedTuple):
    """Points and the objects among them.

    Attributes:
        points: (N, F) float32, x, y, z first.
        boxes: (M, 7) float64, or (M, 9) with the velocity along x and y.
        labels: (M,) class numbers; −1 for objects of other classes, which are in the way when objects are added.
    """

    points: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class Change(Protocol):
    """A random change of a cloud."""

    def __call__(self, cloud: Cloud, generator: np.random.Generator) -> Cloud: ...


def _changed(cloud: Cloud) -> Cloud:
    """A copy that may be written into."""
    return Cloud(cloud.points.copy(), cloud.boxes.copy(), cloud.labels)


@dataclass(frozen=True)
class Flip:
    """Mirrors the scene at axes, each with a probability of one half.

    Attributes:
        axes: "x" to change the sign of y, "y" to change that of x.
    """

    axes: Sequence[str] = ("x",)

    def __post_init__(self) -> None:
        if not self.axes or not set(self.axes) <= {"x", "y"}:
            raise DatasetError(f"Flip: axes={list(self.axes)!r} must be ['x'], ['y'] or both")

    def __call__(self, cloud: Cloud, generator: np.random.Generator) -> Cloud:
        """A mirrored copy, or the cloud."""
        for axis in self.axes:
            if generator.random() < 0.5:
                cloud = _changed(cloud)
                column = "yx".index(axis)
                cloud.points[:, column] *= -1
                cloud.boxes[:, column] *= -1
                cloud.boxes[:, 7 + column : 8 + column] *= -1  # of boxes with velocities
                cloud.boxes[:, 6] = -cloud.boxes[:, 6] + (math.pi if axis == "y" else 0)
        return cloud


@dataclass(frozen=True)
class Rotate:
    """Turns the scene about the sensor.

    Attributes:
        most: angle in degrees, to both sides.
    """

    most: float = 45.0

    def __call__(self, cloud: Cloud, generator: np.random.Generator) -> Cloud:
        """A turned copy."""
        cloud = _changed(cloud)
        angle = math.radians(generator.uniform(-self.most, self.most))
        cos, sin = math.cos(angle), math.sin(angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        cloud.points[:, :2] = cloud.points[:, :2] @ turn.astype(cloud.points.dtype)
        cloud.boxes[:, :2] = cloud.boxes[:, :2] @ turn
        cloud.boxes[:, 6] += angle
        if cloud.boxes.shape[1] > 7:
            cloud.boxes[:, 7:9] = cloud.boxes[:, 7:9] @ turn
        return cloud


@dataclass(frozen=True)
class Scale:
    """Makes the scene and all that is in it larger or smaller.

    Attributes:
        low, high: factors.
    """

    low: float = 0.95
    high: float = 1.05

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise DatasetError(f"Scale: low={self.low} and high={self.high} must be positive, the lower one first")

    def __call__(self, cloud: Cloud, generator: np.random.Generator) -> Cloud:
        """A copy of another size."""
        cloud = _changed(cloud)
        factor = generator.uniform(self.low, self.high)
        cloud.points[:, :3] *= factor
        cloud.boxes[:, :6] *= factor
        cloud.boxes[:, 7:] *= factor
        return cloud


@dataclass(frozen=True)
class Translate:
    """Moves the scene along all three axes.

    Attributes:
        spread: standard deviation in metres.
    """

    spread: float = 0.5

    def __call__(self, cloud: Cloud, generator: np.random.Generator) -> Cloud:
        """A moved copy."""
        cloud = _changed(cloud)
        step = generator.normal(0, self.spread, 3)
        cloud.points[:, :3] += step
        cloud.boxes[:, :3] += step
        return cloud


CHANGES: dict[str, type] = {"Flip": Flip, "Rotate": Rotate, "Scale": Scale, "Translate": Translate}
"""Name in a configuration, and class."""


def build_changes(configs: Sequence[Mapping[str, Any]] | None) -> list[Change]:
    """Changes by name, `[dict(type="Flip"), dict(type="Rotate", most=45), …]`, in the order in which they are made.

    Raises:
        DatasetError: there is no such change, or it has no such argument.
    """
    built = []
    for config in configs or ():
        arguments = dict(config)
        kind = arguments.pop("type", None)
        if kind not in CHANGES:
            raise DatasetError(f"there is no change {kind!r} of point clouds; choose among {', '.join(CHANGES)}")
        try:
            built.append(CHANGES[kind](**arguments))
        except TypeError as error:
            raise DatasetError(f"{kind}: {error}") from error
    return built


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Within (−π, π]."""
    return angle - 2 * math.pi * np.ceil((angle - math.pi) / (2 * math.pi))
