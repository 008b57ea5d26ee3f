"""Slices and slabs of a real head: the MNI152 template that nilearn ships, with its tissues."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.extras import MissingExtraError
from visionssm.tasks.medical.datasets.base import MedicalDataset, Pair
from visionssm.tasks.medical.preparation import preparation_of
from visionssm.tasks.medical.scan import read_volume

CLASSES = ("background", "other", "grey matter", "white matter")
"""Of the brain, "other" is what is mostly neither grey nor white matter, as fluid."""

SPACING = (1.0, 2.0, 2.0)
"""In mm: slices are as the template's, their pixels are means of 2×2."""

FILES = {
    "t1": "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
    "gm": "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
    "wm": "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
}
"""SHA-256 of the template's files: T1-weighted image, shares of grey and of white matter."""

_PERIOD = 52
_BLOCKS = {"train": range(0, 25), "val": range(28, 37), "test": range(40, 49)}  # of every period, 3 mm apart at least
_PERIODS = 3
_IN_PLANE = (slice(21, 213), slice(2, 194))  # of the template's rows and columns; no brain is outside


class Mni152Slices(MedicalDataset):
    """Axial slices of the MNI152 head (Fonov et al. 2011, ICBM 2009a nonlinear symmetric), 96×96 pixels of 2 mm.

    A real T1-weighted magnetic resonance image, the mean of 152 heads without skull, that comes with nilearn: nothing
    is fetched. Three times from bottom to top there are 25 slices to train on, 9 to validate, 9 to test, with gaps of
    3 mm. As all are of one head, figures say that a network learns, not how well it does on other heads.

    Args:
        split: "train", "val" or "test". Training samples are slices; the others are slabs of 9 slices.
        dims: 2, or 3 to train on slabs of 25 slices.
        folder: of the template's files, if not nilearn's.
        prepare, transforms, repeat: see `MedicalDataset`.

    Raises:
        DatasetError: an argument is wrong, or the files are absent or not those that the splits were made for.
        MissingExtraError: (an ImportError) nilearn is not installed.
    """

    def __init__(
        self,
        split: str,
        *,
        dims: int = 2,
        folder: str | Path | None = None,
        prepare: Mapping[str, Any] | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        repeat: int = 1,
    ) -> None:
        _check(split, dims)
        slabs = dims == 3 or split != "train"
        super().__init__(
            CLASSES,
            preparation_of(prepare, channels=1),
            dims=3 if slabs else 2,
            transforms=transforms,
            repeat=repeat,
            cache=True,
        )
        images, labels = _head(_folder(folder))
        blocks = [[_PERIOD * n + z for z in _BLOCKS[split]] for n in range(_PERIODS)]
        places: list[Any] = blocks if slabs else [z for block in blocks for z in block]
        self.names = [f"{split}_z{z[0] if slabs else z:03d}" for z in places]
        spacing = SPACING if slabs else SPACING[1:]
        self.pairs = [Pair(images[z][None], labels[z], spacing) for z in places]

    @staticmethod
    def check_available(split: str, dims: int = 2, folder: str | Path | None = None, **_: Any) -> None:
        """Look whether the template is there and the one that the splits were made for.

        Raises:
            DatasetError, MissingExtraError: see above.
        """
        _check(split, dims)
        _checked_files(_folder(folder))

    @property
    def cases(self) -> int:
        """Slices or slabs."""
        return len(self.pairs)

    def pair(self, index: int) -> Pair:
        """A slice or a slab."""
        return self.pairs[index]

    def sample_name(self, index: int) -> str:
        """The split and the number of the (first) slice."""
        return self.names[index]


def _check(split: str, dims: int) -> None:
    if split not in _BLOCKS:
        raise DatasetError(f"split must be one of {', '.join(_BLOCKS)}, got {split!r}")
    if dims not in (2, 3):
        raise DatasetError(f"dims must be 2 or 3, got {dims}")


def _folder(folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise MissingExtraError("Mni152Slices needs nilearn: pip install 'visionssm[medical]'")
    return Path(found.origin).parent / "datasets" / "data"


def _checked_files(folder: Path) -> list[Path]:
    paths = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in FILES]
    for path, expected in zip(paths, FILES.values(), strict=True):
        remedy = "install nilearn 0.14.1, or name the folder of its files with folder="
        if not path.is_file():
            raise DatasetError(f"data set not found: looked for {str(path)!r}, which nilearn ships; {remedy}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DatasetError(f"{str(path)!r} is not the file that these splits were made for; {remedy}")
    return paths


@cache
def _head(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(155, 96, 96) intensities and class numbers."""
    t1, grey, white = (_halved(read_volume(path).pixels[0]) for path in _checked_files(folder))
    labels = (t1 > 0).astype(np.int64)
    labels[grey >= 127.5] = 2
    labels[white >= 127.5] = 3
    return t1, labels


def _halved(volume: np.ndarray) -> np.ndarray:
    x = volume[: _PERIOD * _PERIODS][:, _IN_PLANE[0], _IN_PLANE[1]].astype(np.float32)
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4))
