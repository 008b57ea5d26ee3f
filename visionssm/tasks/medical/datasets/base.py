"""What all data sets of medical images share: preparation, random changes, damage met while reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visionssm.data.errors import CorruptImageError, DatasetError, UnreadableFileError
from visionssm.data.label_images import some
from visionssm.data.problems import Mistake, Problems, checked_classes, first_readable
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.scan import not_finite
from visionssm.tasks.medical.transforms import build_transforms


class Pair(NamedTuple):
    """An image or a volume, slices first, with its labels.

    Attributes:
        pixels: (C, *sides).
        labels: (*sides) class numbers.
        spacing: in mm, one number a side.
    """

    pixels: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]


class MedicalDataset(Dataset):
    """Base of data sets: derived ones list their cases and read one of them.

    A sample to train on is a dict: `inputs` (C, *sides) float32 and `labels` (*sides) int64, prepared and changed, and
    `index` int. When it evaluates, `labels` are at the grid of the file, `spacing` (sides,) is of that grid, and
    nothing is changed at random.

    Args:
        classes: names in the order of the numbers, from 0, the background.
        preparation: see `Preparation`.
        dims: spatial dimensions of a sample.
        transforms: MONAI's dictionary transforms, see `build_transforms`.
        repeat: how often an epoch takes every case, for random patches of few volumes.
        cache: keep prepared cases in memory.
        wrong: "raise" or "skip".
    """

    def __init__(
        self,
        classes: Sequence[str],
        preparation: Preparation,
        *,
        dims: int,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        repeat: int = 1,
        cache: bool = False,
        wrong: str = "raise",
    ) -> None:
        self.classes = checked_classes(classes)
        if not 2 <= len(self.classes) <= 255:
            raise DatasetError(f"classes must be 2 to 255 names, the background first, got {self.classes!r}")
        if repeat < 1:
            raise DatasetError(f"repeat must be at least 1, got {repeat}")
        self.preparation, self.dims, self.repeat, self.wrong = preparation, dims, repeat, wrong
        self.transforms = build_transforms(transforms)
        self.evaluating = False
        self._cached: dict[int, tuple[Tensor, Tensor]] | None = {} if cache else None

    @property
    def cases(self) -> int:
        """How many there are."""
        raise NotImplementedError

    def pair(self, index: int) -> Pair:
        """One case as its file has it.

        Raises:
            UnreadableFileError, Mistake: it cannot be used.
        """
        raise NotImplementedError

    def sample_name(self, index: int) -> str:
        """What a case is called in files."""
        raise NotImplementedError

    def usable(
        self,
        names: Iterable[str],
        check_files: Callable[[str], None],
        read: Callable[[str], Pair],
        inspect: int | None,
        folder: Path,
    ) -> list[str]:
        """The names whose cases can be used; the mistakes of the others are told at once, or these are left out.

        Args:
            names: of all cases.
            check_files: raises a Mistake where a file of a case is missing.
            read: a case; the first `inspect` that can be used are looked at, None for all.
            folder: what has the mistakes, for the message.
        Raises:
            DatasetError: there are mistakes, and `wrong` is "raise".
        """
        good: list[str] = []
        problems = Problems()
        for name in names:
            try:
                check_files(name)
                if inspect is None or len(good) < inspect:
                    check_pair(read(name), self.preparation.channels, len(self.classes))
            except Mistake as mistake:
                problems.note(name, mistake)
            except UnreadableFileError as error:
                problems.note(error.path.name, Mistake("files that cannot be read", error.reason))
            else:
                good.append(name)
        problems.settle(repr(str(folder)), self.wrong)
        return good

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names; what a checkpoint keeps of the preparation; spatial dimensions of a sample."""
        return {"classes": list(self.classes), "preparation": self.preparation.plain(), "dims": self.dims}

    def __len__(self) -> int:
        return self.cases * (1 if self.evaluating else self.repeat)

    def for_evaluation(self) -> None:
        """Give every case once, with its labels as they are."""
        self.evaluating = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index % self.cases
        if self.wrong == "raise" or self.evaluating:
            return self._sample(number)
        return first_readable(self._sample, number, self.cases)[0]

    def _sample(self, index: int) -> dict[str, Any]:
        if self.evaluating:
            pair = self._read(index)
            return {
                "inputs": self.preparation.image(pair.pixels, pair.spacing),
                "labels": torch.from_numpy(np.ascontiguousarray(pair.labels)).long(),
                "index": index,
                "spacing": torch.tensor(pair.spacing),
            }
        inputs, labels = self._prepared(index)
        if self.transforms is not None:
            inputs, labels = self.transforms(inputs, labels)
        return {"inputs": inputs, "labels": labels, "index": index}

    def _prepared(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cached is not None and index in self._cached:
            return self._cached[index]
        pair = self._read(index)
        prepared = (
            self.preparation.image(pair.pixels, pair.spacing),
            self.preparation.labels(pair.labels, pair.spacing),
        )
        if self._cached is not None:
            self._cached[index] = prepared
        return prepared

    def _read(self, index: int) -> Pair:
        try:
            pair = self.pair(index)
            check_pair(pair, self.preparation.channels, len(self.classes))
        except (Mistake, UnreadableFileError) as error:
            raise CorruptImageError(
                f"{self.sample_name(index)!r}: {error}; mend it, or set wrong='skip' in the data set's config"
            ) from error
        return pair


def check_pair(pair: Pair, channels: int, num_classes: int) -> None:
    """Look whether a case can be used.

    Raises:
        Mistake: its image has other channels or no finite values, or its labels another shape or unknown numbers.
    """
    if pair.pixels.shape[0] != channels:
        raise Mistake(f"images with another number of channels than {channels}", f"{pair.pixels.shape[0]}")
    if pair.pixels.shape[1:] != pair.labels.shape:
        shapes = " and ".join("×".join(map(str, x)) for x in (pair.pixels.shape[1:], pair.labels.shape))
        raise Mistake("labels of another shape than their image", shapes)
    if wrong := not_finite(pair.pixels):
        raise Mistake("images with values that are not finite", f"{wrong} of {pair.pixels.size}")
    check_labels(pair.labels, range(num_classes))


def check_labels(labels: np.ndarray, known: Sequence[int]) -> None:
    """Look whether there are only known class numbers.

    Raises:
        Mistake: with the others and how often they occur.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    odd = [(x, int(count)) for x, count in zip(numbers.tolist(), counts, strict=True) if x not in known]
    if odd:
        times = sum(count for _, count in odd)
        raise Mistake("labels with numbers that no class has", f"{some([x for x, _ in odd])}; {times} times")
