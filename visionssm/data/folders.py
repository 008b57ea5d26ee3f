"""Files and folders as they are there: nothing is left out in silence, and what is no file is told as what it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from visionssm.data.errors import UnreadableFileError

_OF_FILE_MANAGERS = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that Windows hides, and that archives made on a Mac have."""


def files_below(folder: str | Path, suffixes: Sequence[str] | None = None) -> list[Path]:
    """Everything in and below a folder that is no folder, in order of name, through links to folders too.

    Hidden files and folders are left out, those that file managers hide too, and links that lead back to a folder above
    them. Folders that cannot be listed are part of the result: whoever reads it will be told why.

    Args:
        folder: where to look.
        suffixes: lower-case ends of the names to find, whatever their case is; None for all.
    """
    found: list[Path] = []
    waiting = [(Path(folder), frozenset[tuple[int, int]]())]
    while waiting:
        place, above = waiting.pop()
        try:
            own = (place.stat().st_dev, place.stat().st_ino)
            entries = [] if own in above else list(os.scandir(place))
        except OSError:
            found.append(place)
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _OF_FILE_MANAGERS:
                continue
            path = place / entry.name
            if _is_folder(entry):
                waiting.append((path, above | {own}))
            elif suffixes is None or entry.name.lower().endswith(tuple(suffixes)):
                found.append(path)
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, or no permission to follow one
        return False


_KINDS = {
    stat.S_IFDIR: "it is a folder",
    stat.S_IFIFO: "it is a named pipe, not a file",
    stat.S_IFSOCK: "it is a socket, not a file",
    stat.S_IFCHR: "it is a device, not a file",
    stat.S_IFBLK: "it is a device, not a file",
}


def regular_file(path: str | Path) -> Path:
    """The path of a file that can be read, with `~` expanded where no file has that name.

    Raises:
        UnreadableFileError: saying what is there instead.
    """
    path = Path(path)
    try:
        if not os.path.lexists(path) and str(path).startswith("~"):
            path = path.expanduser()
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        reason = "it is a link to a file that is not there" if path.is_symlink() else "there is no such file"
        raise UnreadableFileError(path, reason) from None
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a loop of links, a name too long, "~nobody"
        raise UnreadableFileError(path, f"it cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if kind in _KINDS:
        raise UnreadableFileError(path, _KINDS[kind] + (_unlisted(path) if kind == stat.S_IFDIR else ""))
    return path


def _unlisted(folder: Path) -> str:
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f" that cannot be listed ({error.strerror})"
    return ""
