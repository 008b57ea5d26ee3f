"""Folders of data sets that are made when they are first used: complete or absent, and known by what they are of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from visionssm.data.errors import DatasetError
from visionssm.files import complete_or_absent

SPLITS = ("train", "val", "test")
"""Parts of a set: "val" is for choosing (the best weights, settings), "test" for the figure that is told in the end."""

_SPEC_FILE = "spec.json"


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
