"""Collecting what is wrong with a data set, to tell all of it at once."""

from __future__ import annotations

import logging

from visionssm.data.errors import DatasetError

_SHOWN = 3
_logger = logging.getLogger(__name__)


class Problems:
    """Kinds of mistakes with their examples, in the order in which they were met."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Note one mistake."""
        self.found.setdefault(kind, []).append(example)

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

    def settle(self, source: str, wrong: str) -> None:
        """Stop at the mistakes with `wrong="raise"`; with "skip" say in the log how many were left out.

        Raises:
            DatasetError: listing every kind with its count and first examples, or `wrong` is neither.
        """
        if wrong not in ("raise", "skip"):
            raise DatasetError(f"wrong must be 'raise' or 'skip', got {wrong!r}")
        if not self.count:
            return
        if wrong == "raise":
            raise DatasetError(
                f"{source} has {self.count} mistakes:\n{self}\nMend them, or leave them out with wrong='skip' in the "
                "data set's config."
            )
        _logger.warning("%s: %d mistakes are left out:\n%s", source, self.count, self)
