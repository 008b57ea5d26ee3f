"""Errors of data sets and files; all are ValueErrors whose text says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class DatasetError(ValueError):
    """A data set is missing, incomplete or inconsistent."""


class CorruptImageError(DatasetError):
    """An image cannot be decoded and the configuration asks to stop in that case."""


class UnreadableFileError(ValueError):
    """A file that was to be read cannot be.

    Attributes:
        path: of the file.
        reason: why, to be read behind the path.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read {str(path)!r}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableFileError, (self.path, self.reason)
