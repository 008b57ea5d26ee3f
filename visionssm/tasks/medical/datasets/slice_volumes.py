"""Slices to train on and volumes to test on, as Synapse is prepared for TransUNet."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.folders import regular_file
from visionssm.data.problems import Mistake
from visionssm.extras import needs_extra
from visionssm.tasks.medical.datasets.base import MedicalDataset, Pair
from visionssm.tasks.medical.datasets.folds import part_of
from visionssm.tasks.medical.preparation import preparation_of
from visionssm.tasks.medical.scan import MOST_VOXELS

SYNAPSE = (
    "background",
    "aorta",
    "gallbladder",
    "left kidney",
    "right kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
)
"""Classes of the published preparation."""

_PARTS = ("image", "label")
_SPLITS = {"train": ("train_npz", ".npz", 2), "test": ("test_vol_h5", ".npy.h5", 3)}
_HELP = (
    "It is train_npz/NAME.npz (image and label of a slice), test_vol_h5/NAME.npy.h5 (of a volume, slices first) and "
    "lists with a name a line. Point to yours with root and list in the data set's config."
)


class SliceVolumes(MedicalDataset):
    """Slices of `train_npz` or volumes of `test_vol_h5`, by a list of their names.

    Args:
        root: folder of the two.
        split: "train" for slices, "test" for volumes.
        list: file with a name a line, relative to `root`; without suffix.
        classes: names in the order of the numbers, the background first; those of Synapse by default.
        spacing: of the volumes in mm: depth, height, width; the files do not tell it.
        part: "train", "val" (every fifth patient, who is what a name says before "_slice") or "all"; see `part_of`.
        fold: which of the five is "val", 0 to 4.
        wrong: "raise" tells all mistakes at once: names whose file is missing, damaged files, labels of another shape
            or with unknown numbers, values that are not finite; "skip" leaves these cases out and logs how many.
        inspect: cases whose contents are looked at beforehand; None for all. The others are checked when read.
        prepare, transforms, repeat, cache: see `MedicalDataset`.

    Raises:
        DatasetError: files are missing or contents wrong.
        MissingExtraError: (an ImportError) h5py is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str,
        list: str,
        classes: Sequence[str] = SYNAPSE,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        part: str = "all",
        fold: int = 0,
        wrong: str = "raise",
        inspect: int | None = 100,
        prepare: Mapping[str, Any] | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        repeat: int = 1,
        cache: bool = False,
    ) -> None:
        self.check_available(root, split, list)
        folder, suffix, dims = _SPLITS[split]
        super().__init__(
            classes,
            preparation_of(prepare, channels=1),
            dims=dims,
            transforms=transforms,
            repeat=repeat,
            cache=cache,
            wrong=wrong,
        )
        self.spacing = tuple(float(x) for x in spacing)[3 - dims :]
        self.folder, self.suffix = Path(root).expanduser() / folder, suffix
        listed = Path(root).expanduser() / list
        every = _names(listed)
        chosen = [every[n] for n in part_of([x.partition("_slice")[0] for x in every], part, fold)]

        def check_file(name: str) -> None:
            if not (self.folder / f"{name}{suffix}").is_file():
                raise Mistake(f"names in {listed.name!r} without a file in {str(self.folder)!r}")

        self.names = self.usable(chosen, check_file, self._pair, inspect, self.folder)
        if not self.names:
            raise DatasetError(f"{str(listed.absolute())!r} names no usable case. {_HELP}")

    @staticmethod
    def check_available(root: str | Path, split: str, list: str, **_: Any) -> None:
        """Look whether folder and list are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        if split not in _SPLITS:
            raise DatasetError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        for path in (Path(root).expanduser() / _SPLITS[split][0], Path(root).expanduser() / list):
            if not path.exists():
                raise DatasetError(f"data set not found: looked for {str(path.absolute())!r}. {_HELP}")

    @property
    def cases(self) -> int:
        """Slices or volumes."""
        return len(self.names)

    def pair(self, index: int) -> Pair:
        """A slice or a volume."""
        return self._pair(self.names[index])

    def sample_name(self, index: int) -> str:
        """As the list has it."""
        return str(self.names[index])

    def _pair(self, name: str) -> Pair:
        path = self.folder / f"{name}{self.suffix}"
        image, label = (read_npz if self.dims == 2 else read_h5)(path)
        if image.ndim != self.dims:
            raise Mistake(f"images that have not {self.dims} dimensions", "×".join(map(str, image.shape)))
        if label.dtype.kind == "f":
            rounded = label.round()
            if not np.array_equal(rounded, label):
                raise Mistake("labels that are no whole numbers")
            label = rounded
        return Pair(image.astype(np.float32)[None], label.astype(np.int64), self.spacing)


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`image` and `label` of an .npz file.

    Raises:
        UnreadableFileError: it is missing, damaged, too large, or holds something else.
    """
    path = regular_file(path)

    def read() -> list[np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
        _check_parts({name.removesuffix(".npy") for name in sizes})
        if max(sizes[f"{part}.npy"] for part in _PARTS) > 8 * MOST_VOXELS:
            raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as content:
            return [content[part] for part in _PARTS]

    return _read(path, read)


def read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`image` and `label` of an HDF5 file.

    Raises:
        UnreadableFileError: it is missing, damaged, too large, holds something else, or refers to other files.
        MissingExtraError: (an ImportError) h5py is not installed.
    """
    with needs_extra("medical", "reading .h5 files"):
        import h5py
    path = regular_file(path)

    def read() -> list[np.ndarray]:
        with h5py.File(path, "r") as file:
            _check_parts(set(file))
            if not all(isinstance(file.get(part, getlink=True), h5py.HardLink) for part in _PARTS):
                raise ValueError("it links to other files")
            parts = [file[part] for part in _PARTS]
            for part in parts:
                if not isinstance(part, h5py.Dataset) or part.is_virtual or part.external:
                    raise ValueError("it holds no plain arrays")
                if part.size > MOST_VOXELS:
                    raise ValueError("it is too large")
            return [part[()] for part in parts]

    return _read(path, read)


def _read(path: Path, read: Callable[[], Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    try:
        image, label = read()
    except Exception as error:  # of damaged files whatever comes
        raise UnreadableFileError(path, f"it is truncated or damaged ({str(error)[:200]})") from error
    if image.dtype.kind not in "biuf" or label.dtype.kind not in "biuf":
        raise UnreadableFileError(path, f"it holds {image.dtype} and {label.dtype}, no plain numbers")
    return image, label


def _check_parts(names: set[str]) -> None:
    missing = [part for part in _PARTS if part not in names]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the list {str(path)!r}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    odd = [name for name in names if "/" in name or "\\" in name or name in (".", "..")]
    if odd:
        raise DatasetError(f"the list {str(path)!r} has names with folders in them, as {odd[0]!r}")
    return names
