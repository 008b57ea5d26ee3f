"""Labelled images of a folder alone: its class folders are the classes, and a part is held out where it has no own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from visionssm.data.errors import DatasetError
from visionssm.data.folders import files_below
from visionssm.data.images import SUFFIXES, Mode, read_image
from visionssm.tasks.classification.data import (
    TRAIN_NAMES,
    VAL_NAMES,
    ClassificationImages,
    check_transform,
    usable_transform,
)

TEST_NAMES = ("test", "testing")
HELP = (
    "Give the folder of your images with --cfg-options root=FOLDER. It holds a folder of images for each class; or "
    "train/ and val/, each with these."
)

_logger = logging.getLogger(__name__)

Labelled = tuple[Path, int]


class FolderImages(NamedTuple):
    """What lies in a folder: the names of its classes, and the files and class numbers of its two parts."""

    classes: list[str]
    train: list[Labelled]
    val: list[Labelled]


class FolderSource:
    """The images of one part, by index."""

    def __init__(self, root: Path, images: Sequence[Labelled], mode: Mode) -> None:
        self.root = root
        self.images = images
        self.mode: Mode = mode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.images[index]
        return read_image(path, self.mode), label

    def filename(self, index: int) -> str:
        """Of an image, relative to the root."""
        return self.images[index][0].relative_to(self.root).as_posix()


def folder_dataset(
    root: str | None,
    split: str,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    transform: Mapping[str, Any] | None = None,
    corrupt: str = "skip",
) -> ClassificationImages:
    """A classification data set of a folder that has class folders, or parts with class folders, as `timm_dataset`'s.

    Where there is no validation folder, a part of every class is held out: which files these are follows from their
    names and the seed alone. A class of one image is trained on only.

    Args:
        root: ROOT/CLASS/image.jpg, or ROOT/train/CLASS/image.jpg with or without ROOT/val/CLASS/image.jpg.
        split: "train" or "val".
        val_fraction: share that is held out of every class; at least one image.
        seed: of the choice.
        transform, corrupt: as in `timm_dataset`.
    Raises:
        DatasetError: the folder is missing, has less than two classes, a class without images, or an argument is
            wrong.
    """
    _check_arguments(split, transform, corrupt)
    found = find_images(root, val_fraction, seed)
    transform, training = dict(transform or {}), split == "train"
    if training:
        _warn_of_single_images(found)
    pipeline, given = usable_transform(transform, training)
    about: dict[str, Any] = {"classes": found.classes, "input": given}
    mode: Mode = "L" if given["size"][0] == 1 else "RGB"
    source = FolderSource(Path(str(root)).expanduser(), found.train if training else found.val, mode)
    return ClassificationImages(source, pipeline, about, mode, training, corrupt == "raise")


def check_folder_dataset(
    *,
    root: Any = None,
    split: str = "train",
    val_fraction: float = 0.2,
    seed: int = 0,
    transform: Mapping[str, Any] | None = None,
    corrupt: str = "skip",
) -> None:
    """Look through the folder, without opening images.

    Raises:
        DatasetError: as `folder_dataset`.
    """
    _check_arguments(split, transform, corrupt)
    find_images(root, val_fraction, seed)


def _check_arguments(split: str, transform: Mapping[str, Any] | None, corrupt: str) -> None:
    if split not in ("train", "val"):
        raise DatasetError(f"split must be 'train' or 'val', got {split!r}")
    if corrupt not in ("skip", "raise"):
        raise DatasetError(f"corrupt must be 'skip' or 'raise', got {corrupt!r}")
    check_transform(transform)


def find_images(root: Any, val_fraction: float, seed: int) -> FolderImages:
    """The classes of a folder, in the order of their names, and its images in two parts.

    Raises:
        DatasetError: the folder is missing, has less than two classes, or no images in a class; or the validation
            folder has other classes.
    """
    if not isinstance(val_fraction, (int, float)) or not 0 < val_fraction < 1:
        raise DatasetError(f"val_fraction must be a number between 0 and 1, got {val_fraction!r}")
    place = _root(root)
    parts = {path.name.lower(): path for path in _folders(place) if _holds_folders_only(path)}
    train, val, test = (
        next((parts[name] for name in names if name in parts), None) for names in (TRAIN_NAMES, VAL_NAMES, TEST_NAMES)
    )
    if train is None:
        if val is not None or test is not None:
            raise DatasetError(f"{str(place)!r} has {(val or test).name}/, but no train/. {HELP}")  # type: ignore[union-attr]
        train = place
    classes = _class_names(train)
    everything = [_images(train / name) for name in classes]
    if val is None:
        chosen = [_held_out(files, train, val_fraction, seed) for files in everything]
        kept = [[path for path in files if path not in out] for files, out in zip(everything, chosen, strict=True)]
        if not any(chosen):
            raise DatasetError(f"no class in {str(train)!r} has two images: there is nothing to validate with")
        return FolderImages(classes, _labelled(kept), _labelled([sorted(out) for out in chosen]))
    unknown = sorted({path.name for path in _folders(val)} - set(classes))
    if unknown:
        raise DatasetError(f"{str(val)!r} has classes that {str(train)!r} has not: {', '.join(unknown[:5])}")
    held_out = _labelled([_images(val / name) if (val / name).is_dir() else [] for name in classes])
    if not held_out:
        raise DatasetError(f"{str(val)!r} holds no images of the classes in {str(train)!r}")
    return FolderImages(classes, _labelled(everything), held_out)


def _root(root: Any) -> Path:
    if root is None or root == "":
        raise DatasetError(f"no folder of images is given. {HELP}")
    if not isinstance(root, (str, Path)):
        raise DatasetError(f"root must be the name of a folder, got {root!r}; a name made of digits: root=./NAME")
    place = Path(root).expanduser()
    if not place.is_dir():
        raise DatasetError(f"data set not found: looked for the folder {str(place.absolute())!r}. {HELP}")
    return place


def _class_names(folder: Path) -> list[str]:
    names = [path.name for path in _folders(folder)]
    for name in names:
        if not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DatasetError(f"{str(folder / name)!r} cannot name a class: rename it in plain letters")
    if len(names) < 2:
        told = f"one class folder only, {names[0]!r}" if names else "no class folders"
        inside = f" If {names[0]!r} holds the classes, give root={folder / names[0]}." if names else ""
        raise DatasetError(f"{str(folder)!r} has {told}; two classes are needed at least.{inside} {HELP}")
    empty = [name for name in names if not _images(folder / name)]
    if empty:
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise DatasetError(
            f"{len(empty)} of {len(names)} class folders in {str(folder)!r} hold no images: {listed}. Fill or remove "
            f"them. Images are files named *{', *'.join(SUFFIXES)}"
        )
    return names


def _folders(place: Path) -> list[Path]:
    """Folders in a folder, but for hidden ones, in the order of their names."""
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError as error:
        raise DatasetError(f"folder {str(place)!r} cannot be listed ({error.strerror})") from error


def _holds_folders_only(place: Path) -> bool:
    """Whether a folder is a part rather than a class: trains may be among the things to tell apart."""
    return bool(_folders(place)) and not any(path.name.lower().endswith(SUFFIXES) for path in place.iterdir())


def _images(folder: Path) -> list[Path]:
    """Image files in and below a folder."""
    found = files_below(folder, SUFFIXES)
    for path in found:
        if path.is_dir():
            raise DatasetError(f"folder {str(path)!r} cannot be listed")
    return found


def _held_out(files: Sequence[Path], folder: Path, fraction: float, seed: int) -> set[Path]:
    """A share of the files, none of a single one; the same wherever the folder lies."""

    def rank(path: Path) -> bytes:
        name = path.relative_to(folder).as_posix().encode(errors="surrogateescape")
        return hashlib.sha256(f"{seed}/".encode() + name).digest()

    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return set(sorted(files, key=rank)[:count])


def _labelled(files: Sequence[Sequence[Path]]) -> list[Labelled]:
    return [(path, label) for label, paths in enumerate(files) for path in paths]


def _warn_of_single_images(found: FolderImages) -> None:
    validated = {label for _, label in found.val}
    without = [name for label, name in enumerate(found.classes) if label not in validated]
    if without:
        told = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        _logger.warning("%d of %d classes have no image to validate with: %s", len(without), len(found.classes), told)


# What the engine asks of a data set's type before it builds one; set by name, as functions have no such attributes.
for _name, _answer in (("check_available", check_folder_dataset), ("brings_order", lambda **_: False)):
    setattr(folder_dataset, _name, _answer)
