"""Writing of files that are complete or absent."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix, that gets its name when the block ends without an error.

    After an error, whatever was at `path` is untouched and the hidden file is gone.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
