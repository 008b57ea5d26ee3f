"""All the files below a folder: nothing is left out in silence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def files_below(folder: str | Path, suffixes: Sequence[str] | None = None) -> list[Path]:
    """Everything in and below a folder that is no folder, in order of name, through links to folders too.

    Hidden files and folders are left out, and links that lead back to a folder above them. Folders that cannot be
    listed are part of the result: whoever reads it will be told why.

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
            if entry.name.startswith("."):
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
