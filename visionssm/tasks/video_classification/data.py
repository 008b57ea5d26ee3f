"""Labelled videos of a folder or a list, looked at as a whole before the first one is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import normpath
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from visionssm.data.arguments import checked
from visionssm.data.errors import CorruptImageError, DatasetError, UnreadableFileError
from visionssm.data.folders import files_below
from visionssm.data.problems import Mistake, Problems, checked_classes, first_readable
from visionssm.data.videos import CLIPS, SUFFIXES, clips_below, open_video
from visionssm.tasks.video_classification.views import Views, checked_augmentation

HELP = (
    "Give the folder of your videos with `--cfg-options train_dataloader.dataset.root=DIR "
    "val_dataloader.dataset.root=DIR`: it holds a folder of videos (or of folders of frames) for each class; or, with "
    "annotations=FILE, a list of lines 'path label'."
)
MAX_CLASSES = 100_000


class Labelled(NamedTuple):
    """A video: its name relative to the root, and the number of its class."""

    name: str
    label: int


class VideoClips(Dataset):
    """Videos with a class each.

    A sample is a dict: `inputs`, float32 and normalised, in training with `augment` one random clip (C, T, H, W), else
    all views (clips·crops, C, T, H, W); `labels` int; `index` int; `skipped` int, the videos passed over for this one.
    In an evaluation with `wrong="skip"` a video that cannot be decoded has the label −1.

    Args:
        root: folder that names are relative to.
        annotations: a list in root, or absolute: lines "path label", "path,label" or with a tab; paths are relative to
            root and must stay in it; labels are class numbers from 0, or names. None: every folder in root is a class.
        classes: names of the classes by number; None for those of the folders, or of the list's names in alphabetical
            order, or the numbers themselves.
        views: fields of `Views`: frames, size, clips, crops, mean, std, ….
        augment: fields of `Augmentation` for random changes, `dict()` for the published ones; None for none.
        wrong: "raise" tells all mistakes at once: lines that are none, labels out of range, videos that are missing,
            empty, unreadable or without frames; "skip" leaves these out and logs how many.
        look: open every video when the set is made; without, a damaged one shows when it is its turn.

    Raises:
        DatasetError: files are missing or contents wrong, or an argument is.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str | None = None,
        classes: Sequence[str] | None = None,
        views: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        wrong: str = "raise",
        look: bool = True,
    ) -> None:
        self.check_available(root, annotations)
        self.views: Views = checked(Views, "views", views or {})
        self.augment = checked_augmentation(augment)
        self.root = Path(root).expanduser()
        self.wrong = wrong
        self.evaluating = False
        problems = Problems()
        if annotations is None:
            source, (self.classes, videos) = self.root, _of_folders(self.root, classes)
        else:
            source = self.root / Path(annotations).expanduser()
            self.classes, videos = _of_list(source, self.root, classes, problems)
        self.videos = _usable(self.root, videos, problems, look)
        problems.settle(repr(str(source)), wrong)
        if not self.videos:
            raise DatasetError(f"{str(source)!r} has no video that can be used. {HELP}")

    @staticmethod
    def check_available(root: str | Path, annotations: str | None = None, **_: Any) -> None:
        """Look whether the folder and the list are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        if not isinstance(root, (str, Path)) or not str(root):
            raise DatasetError(f"root must be the name of a folder, got {root!r}. {HELP}")
        place = Path(root).expanduser()
        if not place.is_dir():
            raise DatasetError(f"data set not found: looked for the folder {str(place.absolute())!r}. {HELP}")
        if annotations is not None and not (place / Path(annotations).expanduser()).is_file():
            raise DatasetError(f"annotations: looked for the file {str((place / annotations).absolute())!r}. {HELP}")

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, and how a video is looked at, in plain types."""
        return {"classes": list(self.classes), "views": self.views.plain()}

    def for_evaluation(self) -> None:
        """Give all views; videos that cannot be decoded are left out, not replaced."""
        self.evaluating = True

    def sample_name(self, index: int) -> str:
        """Of the video, relative to root."""
        return self.videos[index].name

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.wrong == "raise":
            return self._sample(index)
        if not self.evaluating:
            sample, skipped = first_readable(self._sample, index, len(self))
            return {**sample, "skipped": skipped}
        try:
            return self._sample(index)
        except CorruptImageError:
            blank = torch.zeros(self.views.clips * self.views.crops, *self.views.shape)
            return {"inputs": blank, "labels": -1, "index": index, "skipped": 1}

    def _sample(self, index: int) -> dict[str, Any]:
        name, label = self.videos[index]
        try:
            video = open_video(self.root / name)
            if self.augment is not None and not self.evaluating:
                inputs = self.augment(video, self.views)
            else:
                inputs = self.views(video)
        except UnreadableFileError as error:
            raise CorruptImageError(
                f"video {name!r} cannot be read: {error.reason}; remove or replace it, or set wrong='skip' in the data "
                "set's config"
            ) from error
        return {"inputs": inputs, "labels": label, "index": index, "skipped": 0}


def _of_folders(root: Path, classes: Sequence[str] | None) -> tuple[list[str], list[Labelled]]:
    """Class names, and the videos of all class folders."""
    folders = sorted(x.name for x in root.iterdir() if x.is_dir() and not x.name.startswith("."))
    names = folders if classes is None else checked_classes(classes)
    missing = [name for name in names if name not in folders]
    if missing:
        raise DatasetError(f"classes: {str(root)!r} has no folder {missing[0]!r}; it has {', '.join(folders[:10])}")
    if len(names) < 2:
        raise DatasetError(f"{str(root)!r} has {len(names)} class folders; two classes are needed at least. {HELP}")
    for name in names:
        if not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DatasetError(f"{str(root / name)!r} cannot name a class: rename it in plain letters")
    found = {name: _clips_below(root / name) for name in names}
    empty = [name for name in names if not found[name]]
    if empty:
        raise DatasetError(
            f"{len(empty)} of {len(names)} class folders in {str(root)!r} hold no videos: {', '.join(empty[:5])}. Fill "
            f"or remove them. Videos are folders of image files, or files named *{', *'.join(CLIPS)}"
        )
    videos = [Labelled(x.relative_to(root).as_posix(), names.index(name)) for name in names for x in found[name]]
    return names, videos


def _clips_below(folder: Path) -> list[Path]:
    """Videos in and below the folder of a class, and folders of frames; images that lie in it are no frames."""
    known = (*CLIPS, *SUFFIXES)
    files = files_below(folder, known)
    for path in files:
        if path.is_dir():
            raise DatasetError(f"folder {str(path)!r} cannot be listed")
    own = [x for x in files if x.parent == folder]
    return sorted({*clips_below(folder, known), *own} - {folder})


def _name_and_label(line: str) -> tuple[str, str]:
    """The last word of a line, and what is before it and the space or comma between; the name is empty of no line.

    Not by a regular expression, whose time would grow with the third power of the spaces in a row.
    """
    line = line.strip()
    label = (line.replace(",", " ").split() or [""])[-1]
    if not line.endswith(label):  # by a comma
        return "", ""
    before = line[: len(line) - len(label)]
    name = before.rstrip()
    while name.endswith(","):
        name = name[:-1].rstrip()
    return name.strip("\"'"), label


def _of_list(
    source: Path, root: Path, classes: Sequence[str] | None, problems: Problems
) -> tuple[list[str], list[Labelled]]:
    """Class names, and the videos of a list; lines that are wrong are noted."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"annotations: {str(source)!r} cannot be read as UTF-8 text ({error})") from error
    read: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, label = _name_and_label(line)
        if not name:
            problems.add("lines that are not 'path label'", f"line {number} ({line.strip()[:40]!r})")
        elif not Path(normpath(root / name)).is_relative_to(normpath(root)):
            problems.add("paths that lead out of root", repr(name))
        else:
            read.append((name, label))
    if not read:
        raise DatasetError(f"{str(source)!r} has no line 'path label'" + (f":\n{problems}" if problems.count else ""))
    numbered = all(re.fullmatch(r"-?[0-9]{1,9}", label) for _, label in read)
    names = _class_names(classes, [label for _, label in read], numbered, source)
    numbers = {name: number for number, name in enumerate(names)}
    videos = []
    for name, label in read:
        number = int(label) if numbered and label not in numbers else numbers.get(label, -1)
        if 0 <= number < len(names):
            videos.append(Labelled(name, number))
        elif numbered:
            problems.add(f"labels that are not from 0 to {len(names) - 1}", f"{label} of {name!r}")
        else:
            problems.add("labels that are none of the classes", f"{label!r} of {name!r}")
    return names, videos


def _class_names(classes: Sequence[str] | None, labels: Sequence[str], numbered: bool, source: Path) -> list[str]:
    if classes is not None:
        return checked_classes(classes)
    if not numbered:
        return sorted(set(labels))
    highest = max(int(label) for label in labels)
    if not 0 <= highest < MAX_CLASSES:
        raise DatasetError(f"{str(source)!r}: the highest label is {highest}; labels are class numbers from 0")
    return [str(number) for number in range(highest + 1)]


def _usable(root: Path, videos: Sequence[Labelled], problems: Problems, look: bool) -> list[Labelled]:
    """Those videos that are there and, where they are looked at, can be opened; the others are noted."""

    def mistake(video: Labelled) -> Mistake | None:
        try:
            path = root / video.name
            if not path.exists():
                return Mistake("missing videos")
            if look:
                open_video(path)
        except UnreadableFileError as error:
            return Mistake(
                "videos without frames" if "no frames" in error.reason else "unreadable videos", error.reason
            )
        except (OSError, ValueError) as error:
            return Mistake("unreadable videos", str(error))
        return None

    kept = []
    with ThreadPoolExecutor(max_workers=8) as pool:  # waiting for storage overlaps
        for video, found in zip(videos, pool.map(mistake, videos), strict=True):
            if found is None:
                kept.append(video)
            else:
                problems.note(video.name, found)
    return kept
