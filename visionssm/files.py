"""Writing of files that are complete or absent, and of tables."""

from __future__ import annotations

import contextlib
import csv
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO


@contextlib.contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, that gets its name when the block ends without an error.

    After an error, whatever was at `path` is untouched and the hidden file is gone.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path = Path(path)
    stem = os.fsencode(path.stem)[:100].decode(errors="ignore")  # names may have 255 bytes
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table whose file is complete or absent; floats get six digits."""
    with complete_or_absent(path) as temporary, _opened(temporary) as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(header)
        lines.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in rows)


def _opened(path: Path) -> TextIO:
    """For writing; bytes of file names that are not UTF-8 are written as "\\udcff"."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
