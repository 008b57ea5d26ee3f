"""Problems of a data set: collected and reported all at once, or met while reading and skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from visionssm.data.errors import CorruptImageError, DatasetError

MOST_IN_A_ROW = 20
"""Samples in a row that may be unreadable; more mean that the storage is gone."""

SKIP = "Mend them, or leave them out with wrong='skip' in the data set's config."

Sample = TypeVar("Sample")

_SHOWN = 3
_logger = logging.getLogger(__name__)


class Mistake(Exception):
    """Something wrong with one entry of a data set: its kind, in the plural, and what to add to the entry's name."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Problems:
    """Kinds of mistakes with their examples, in the order in which they were met."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Note one mistake."""
        self.found.setdefault(kind, []).append(example)

    def note(self, name: str, mistake: Mistake) -> None:
        """Note a mistake of the entry with this name."""
        self.add(mistake.kind, repr(name) + (f" ({mistake.detail})" if mistake.detail else ""))

    @property
    def count(self) -> int:
        """How many mistakes there are."""
        return sum(map(len, self.found.values()))

    def __str__(self) -> str:
        lines = []
        for kind, examples in self.found.items():
            more = ", …" if len(examples) > _SHOWN else ""
            lines.append(f"  {len(examples)} {kind}: {', '.join(examples[:_SHOWN])}{more}")
        return "\n".join(lines)

    def settle(self, source: str, wrong: str, remedy: str = SKIP) -> None:
        """Stop at the mistakes with `wrong="raise"`; with "skip" say in the log how many were left out.

        Args:
            source: what has the mistakes, for the message.
            wrong: "raise" or "skip".
            remedy: sentence that says what to do.
        Raises:
            DatasetError: listing every kind with its count and first examples, or `wrong` is neither.
        """
        if wrong not in ("raise", "skip"):
            raise DatasetError(f"wrong must be 'raise' or 'skip', got {wrong!r}")
        if not self.count:
            return
        if wrong == "raise":
            raise DatasetError(f"{source} has {self.count} mistakes:\n{self}\n{remedy}")
        _logger.warning("%s: %d mistakes are left out:\n%s", source, self.count, self)


def checked_classes(classes: Any) -> list[str]:
    """Class names as a list.

    Raises:
        DatasetError: it is a single string, whose letters would become classes; or it is empty or holds a name twice.
    """
    if isinstance(classes, str):
        raise DatasetError(f"classes must be a list of names, got the string {classes!r}; write classes=[{classes!r}]")
    if not isinstance(classes, Sequence) or not classes:
        raise DatasetError(f"classes must be a list of names, got {classes!r}")
    names = [str(name) for name in classes]
    if len(set(names)) != len(names):
        raise DatasetError(f"classes must be different names, got {names!r}")
    return names


def first_readable(read: Callable[[int], Sample], index: int, count: int) -> tuple[Sample, int]:
    """A sample, or the next one that can be read in its place; and how many were passed over.

    Args:
        read: makes the sample of a number, and raises a CorruptImageError where that is impossible.
        index: number of the sample.
        count: samples of the data set; 0 comes after the last one.
    Raises:
        CorruptImageError: `MOST_IN_A_ROW` in a row cannot be read.
    """
    first = ""
    for skipped in range(MOST_IN_A_ROW):
        try:
            return read((index + skipped) % count), skipped
        except CorruptImageError as error:
            first = first or str(error)
    raise CorruptImageError(
        f"{MOST_IN_A_ROW} images in a row cannot be read; is the storage available? The first: {first}"
    )
