"""Folders of data sets that are made when they are first used: complete or absent, and known by what they are of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from filelock import FileLock

from visionssm.data.errors import DatasetError
from visionssm.files import complete_or_absent

SPLITS = ("train", "val", "test")
"""Parts of a set: "val" is for choosing (the best weights, settings), "test" for the figure that is told in the end."""

_SPEC_FILE = "spec.json"

Spec = TypeVar("Spec")


@dataclass(frozen=True)
class PicturesSpec:
    """What decides every pixel of a set of rendered pictures.

    Attributes:
        size: side of the images in pixels.
        train, val, test: numbers of images.
        most: objects in an image; at least one.
        seed: another one gives other images.
    Raises:
        DatasetError: a value is out of range.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    least_size: ClassVar[int]

    size: int
    train: int
    val: int
    test: int
    most: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"size": self.least_size, "seed": 0}.get(name, 1)
            if value < least:
                raise DatasetError(f"{name} must be at least {least}, got {value}")

    @property
    def folder_name(self) -> str:
        """Distinguishes sets of different specifications."""
        count = f"{self.train}+{self.val}+{self.test}"
        return f"{self.kind}_v{self.version}_{self.size}px_{count}_most{self.most}_seed{self.seed}"

    def folder(self, root: str | None) -> Path:
        """Of a set, below a root, or in the cache folder if none is named."""
        return cache_folder(self.folder_name) if root is None else Path(root) / self.folder_name


def checked_spec(kind: Callable[..., Spec], split: str, fields: Mapping[str, int] | None) -> Spec:
    """The specification with these fields, of which the split is one part.

    Args:
        kind: a dataclass, of which every field has a default.
        split: one of `SPLITS`.
        fields: of the specification; None for the defaults.
    Raises:
        DatasetError: (a ValueError) there is no such split or field, or a value is out of range.
    """
    if split not in SPLITS:
        raise DatasetError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    try:
        return kind(**dict(fields or {}))
    except TypeError as error:
        raise DatasetError(f"spec: {error}; the fields are {', '.join(asdict(kind()))}") from error  # type: ignore[call-overload]


def cache_folder(name: str) -> Path:
    """Where a set is kept unless another place is named: below VISIONSSM_CACHE, else the user's cache folder."""
    named = os.environ.get("VISIONSSM_CACHE")
    if named:
        return Path(named).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "visionssm" / name


def generated_folder(folder: str | Path, described: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """A folder with a set; `write` fills a hidden one that gets its name, or nothing is done if the set is there.

    Several processes may ask for the same folder at once.

    Args:
        folder: to be there.
        described: of the set, in plain types; kept in the folder.
        write: gets an empty folder.
    Returns:
        the folder.
    Raises:
        DatasetError: the folder holds something else, for example a set of another description.
        OSError: the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    if folder.is_dir():
        return _verified(folder, described)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return _verified(folder, described)
        with complete_or_absent(folder) as temporary:
            try:
                temporary.mkdir()
                write(temporary)
                (temporary / _SPEC_FILE).write_text(json.dumps(dict(described)), encoding="utf-8")
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return folder


def _verified(folder: Path, described: Mapping[str, Any]) -> Path:
    """The folder, if it holds this very set.

    Raises:
        DatasetError: it does not.
    """
    try:
        found = json.loads((folder / _SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != dict(described):
        raise DatasetError(
            f"{str(folder.absolute())!r} holds {'something else' if found is None else f'the set {found}'}, not "
            f"{dict(described)}; remove the folder, or name another one"
        )
    return folder
