"""Errors of data sets, checkpoints and files; all are ValueErrors whose text says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


class DatasetError(ValueError):
    """A data set is missing, incomplete or inconsistent."""


class CorruptImageError(DatasetError):
    """An image cannot be decoded and the configuration asks to stop in that case."""


class CheckpointError(ValueError):
    """A checkpoint is unreadable, refused, or does not fit the model.

    Names from the file stand in the message as printable text: terminals obey control characters.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", _escaped, message))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


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
