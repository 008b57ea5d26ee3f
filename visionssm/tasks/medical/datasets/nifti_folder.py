"""Volumes in nnU-Net's form: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.data.folders import files_below
from visionssm.data.problems import Mistake
from visionssm.tasks.medical.datasets.base import MedicalDataset, Pair
from visionssm.tasks.medical.datasets.folds import part_of
from visionssm.tasks.medical.preparation import preparation_of
from visionssm.tasks.medical.scan import NIFTI, name_parts, other_grid, read_channels, read_volume

_HELP = (
    "It is a folder with dataset.json (channel_names and labels), imagesTr/CASE_0000.nii.gz (a file a channel) and "
    "labelsTr/CASE.nii.gz. Point to yours with root in the data set's config."
)


class NiftiFolder(MedicalDataset):
    """Volumes with labels.

    Args:
        root: folder with dataset.json.
        part: "train", "val" (every fifth case) or "all"; see `part_of`.
        fold: which of the five is "val", 0 to 4.
        images: folder of the images, relative to `root`.
        labels: folder of the labels.
        wrong: "raise" tells all mistakes at once: cases without label or without a channel, damaged files, other than
            3-D ones, values that are not finite, labels of another shape or affine, or with numbers that dataset.json
            does not name; "skip" leaves these cases out and logs how many.
        inspect: cases whose voxels are looked at beforehand; None for all. The others are checked when read.
        min_slices: least number of slices of a case.
        prepare, transforms, repeat, cache: see `MedicalDataset`.

    Raises:
        DatasetError: files are missing or contents wrong.
        MissingExtraError: (an ImportError) nibabel is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        part: str = "train",
        fold: int = 0,
        images: str = "imagesTr",
        labels: str = "labelsTr",
        wrong: str = "raise",
        inspect: int | None = 50,
        min_slices: int = 1,
        prepare: Mapping[str, Any] | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        repeat: int = 1,
        cache: bool = False,
    ) -> None:
        self.check_available(root, images, labels)
        self.root = Path(root).expanduser()
        channels, names, self.values = _described(self.root / "dataset.json")
        super().__init__(
            names,
            preparation_of(prepare, channels=channels),
            dims=3,
            transforms=transforms,
            repeat=repeat,
            cache=cache,
            wrong=wrong,
        )
        self.image_folder, self.label_folder, self.min_slices = self.root / images, self.root / labels, min_slices
        parts = [name_parts(path) for path in files_below(self.image_folder, NIFTI)]
        self.ends = {case: suffix for case, _, suffix in parts}
        every = sorted(self.ends)
        chosen = [every[n] for n in part_of(every, part, fold)]
        self.names = self.usable(chosen, self._check_files, self._pair, inspect, self.root)
        if not self.names:
            raise DatasetError(
                f"{str(self.image_folder.absolute())!r} holds no usable case of part={part!r}, of {len(every)}. {_HELP}"
            )

    @staticmethod
    def check_available(root: str | Path, images: str = "imagesTr", labels: str = "labelsTr", **_: Any) -> None:
        """Look whether the folders and dataset.json are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        for name in ("dataset.json", images, labels):
            path = Path(root).expanduser() / name
            if not path.exists():
                raise DatasetError(f"data set not found: looked for {str(path.absolute())!r}. {_HELP}")

    @property
    def cases(self) -> int:
        """Volumes."""
        return len(self.names)

    def pair(self, index: int) -> Pair:
        """A volume with all its channels."""
        return self._pair(self.names[index])

    def sample_name(self, index: int) -> str:
        """Of the case."""
        return self.names[index]

    def _files(self, name: str) -> tuple[list[Path], Path]:
        end = self.ends[name]
        images = [self.image_folder / f"{name}_{n:04d}{end}" for n in range(self.preparation.channels)]
        return images, self.label_folder / f"{name}{end}"

    def _check_files(self, name: str) -> None:
        images, label = self._files(name)
        for path in images:
            if not path.is_file():
                raise Mistake("cases without the file of a channel", path.name)
        if not label.is_file():
            raise Mistake(f"cases without label in {str(self.label_folder)!r}")

    def _pair(self, name: str) -> Pair:
        images, label = self._files(name)
        image, truth = read_channels(images), read_volume(label)
        difference = other_grid(image, truth)
        if difference:
            raise Mistake(f"labels with another {difference} than their image")
        if image.pixels.shape[1] < self.min_slices:
            raise Mistake(f"cases of fewer than {self.min_slices} slices", str(image.pixels.shape[1]))
        values = truth.pixels[0]
        if values.dtype.kind == "f":  # writers that scale whole numbers give 1.00002 for 1
            whole = values.round()
            values = np.where(abs(values - whole) < 1e-3, whole, values)
        numbers = np.full(values.shape, len(self.classes), np.int64)
        for number, value in enumerate(self.values):
            numbers[values == value] = number
        if (numbers == len(self.classes)).any():
            odd = np.unique(values[numbers == len(self.classes)])
            times = int((numbers == len(self.classes)).sum())
            told = ", ".join(f"{x:g}" for x in odd[:5].tolist()) + (", …" if len(odd) > 5 else "")
            raise Mistake("labels with numbers that dataset.json does not name", f"{told}; {times} times")
        return Pair(image.pixels, numbers, image.spacing)


def _described(path: Path) -> tuple[int, list[str], list[int]]:
    """Channels, class names and their numbers, of a dataset.json.

    Raises:
        DatasetError: it cannot be read, or does not say these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"cannot read {str(path)!r}: {error}") from error
    channels = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
    labels = content.get("labels") if isinstance(content, dict) else None
    for name, value in (("channel_names", channels), ("labels", labels)):
        if not isinstance(value, dict) or not value:
            raise DatasetError(f"{str(path)!r} has no {name}, which must be a dictionary, got {value!r:.80}")
    assert isinstance(labels, dict)
    assert isinstance(channels, dict)
    try:  # nnU-Net v2 writes {name: number}, v1 and the decathlon {number: name}
        pairs = sorted(
            (int(key), str(value)) if isinstance(value, str) and str(key).isdigit() else (int(value), str(key))
            for key, value in labels.items()
        )
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"labels of {str(path)!r} must be a number a class, regions (lists of numbers) are not known: "
            f"{labels!r:.200}"
        ) from error
    if pairs[0][0] != 0:
        raise DatasetError(f"labels of {str(path)!r} must have 0, the background, got {labels!r:.200}")
    numbers = [number for number, _ in pairs]
    if len(set(numbers)) < len(numbers):
        raise DatasetError(f"labels of {str(path)!r} give one number to several classes: {labels!r:.200}")
    return len(channels), [name for _, name in pairs], numbers
