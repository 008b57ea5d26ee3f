"""What data sets of sweeps have in common: the order in which a training sample is changed, cropped and shuffled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from visionssm.data.errors import DatasetError
from visionssm.data.problems import checked_classes
from visionssm.tasks.pointcloud.augment import Cloud, build_changes, wrapped
from visionssm.tasks.pointcloud.kitti import Ground

MOST_WITHOUT_BOXES = 50
"""Frames in a row that may be left without a box while training."""

_PASTING, _SHUFFLE, _OTHER_FRAME, _FIRST_CHANGE = range(4)
"""Numbers of the seeds that the parts of a training sample have of their own."""


def in_another_case(kinds: Iterable[str], known: Iterable[str]) -> str | None:
    """What to say of names that are those of known classes but for their case, as "car (Car is known)"; None of none.

    An object of such a name would be of no class, and nobody would notice.
    """
    names = set(known)
    folded = {name.casefold(): name for name in sorted(names)}
    odd = {kind: folded[kind.casefold()] for kind in set(kinds) - names if kind.casefold() in folded}
    return ", ".join(f"{kind} ({name} is known)" for kind, name in sorted(odd.items())[:3]) or None


class SweepFrames(Dataset):
    """Base of data sets whose samples are sweeps with boxes.

    A sample is a dict: `inputs` (N, F) float32 x, y, z and further numbers; `boxes` (M, 7) or (M, 9) float32 and
    `labels` (M,) int64 of the classes; `frame`, what is known of it beside; `index` int. While training, objects are
    pasted, the scene is changed, cropped and shuffled, in this order; each step draws from a seed of its own, so that
    one step more leaves the others as they were.

    Args:
        classes: that are looked for, in the order of their numbers.
        point_range: x, y, z of the lowest and of the highest corner, in metres; points outside of it as seen from above
            are left out, and while training boxes whose centre is outside. None for everything.
        changes: random changes while training, `[dict(type="Flip"), …]`, in their order.
        crop_height: whether points above or below the range are left out too.
    Raises:
        DatasetError: an argument makes no sense.
    """

    least_points_of_objects: ClassVar[int] = 5
    frames: Sequence[Any] = ()

    def __init__(
        self,
        classes: Sequence[str],
        point_range: Sequence[float] | None = None,
        changes: Sequence[Mapping[str, Any]] | None = None,
        crop_height: bool = False,
    ) -> None:
        self.classes = checked_classes(classes)
        if point_range is not None and len(point_range) != 6:
            raise DatasetError(f"point_range={list(point_range)} must be six numbers, x, y, z of two corners")
        self.point_range = None if point_range is None else np.array(point_range, dtype=np.float64)
        self.crop_axes = 3 if crop_height else 2
        self.changes = build_changes(changes)
        self.pasting: Any = None
        self.evaluating = False
        self.changed = self.pasted = True

    # -- what a data set says ------------------------------------------------------------------------------------------

    def cloud(self, index: int) -> Cloud:
        """Points and all objects of a frame, those of other classes with the label −1."""
        raise NotImplementedError

    def worth_pasting(self, index: int) -> np.ndarray:
        """(M,) whether each object of `cloud(index)` may be pasted into other frames."""
        return np.ones(len(self.cloud(index).labels), dtype=bool)

    def ground(self, index: int) -> Ground | None:
        """The road of a frame, where it is known."""
        return None

    def sample_name(self, index: int) -> str:
        """Name of the frame."""
        return str(self.frames[index].name)

    # -- samples -------------------------------------------------------------------------------------------------------

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names; number 0 is the first."""
        return {"classes": list(self.classes)}

    def for_evaluation(self) -> None:
        """Give every frame as it is: unchanged, in order, with all boxes."""
        self.evaluating = True

    def train_with(self, *, changes: bool, pasting: bool) -> None:
        """Say which random changes samples get from now on; the last epochs of some trainings have none."""
        self.changed, self.pasted = changes, pasting

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.evaluating:
            return self._sample(self._cropped(self.cloud(index)), index)
        seed = int(torch.randint(2**31, ()))
        for attempt in range(MOST_WITHOUT_BOXES):

            def generator(part: int, attempt: int = attempt) -> np.random.Generator:
                return np.random.default_rng([seed, attempt, part])

            cloud = self.cloud(index)
            if self.pasting is not None and self.pasted and self.changed:
                cloud = self.pasting(cloud, generator(_PASTING), self.ground(index))
            for number, change in enumerate(self.changes if self.changed else ()):
                cloud = change(cloud, generator(_FIRST_CHANGE + number))
            cloud.boxes[:, 6] = wrapped(cloud.boxes[:, 6])
            cloud = self._without_others(self._cropped(cloud))
            if len(cloud.boxes):
                return self._sample(cloud._replace(points=generator(_SHUFFLE).permutation(cloud.points)), index)
            index = int(generator(_OTHER_FRAME).integers(len(self)))
        raise DatasetError(
            f"{self.place!r}: {MOST_WITHOUT_BOXES} frames in a row have no box of {', '.join(self.classes)} in "
            "the range to train on"
        )

    @property
    def place(self) -> str:
        """Where the set is, for messages."""
        return type(self).__name__

    def _cropped(self, cloud: Cloud) -> Cloud:
        """The cloud without points outside of the range."""
        if self.point_range is None:
            return cloud
        low, high = self.point_range[: self.crop_axes], self.point_range[3 : 3 + self.crop_axes]
        columns = cloud.points[:, : self.crop_axes]
        return cloud._replace(points=cloud.points[((columns >= low) & (columns <= high)).all(1)])

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
