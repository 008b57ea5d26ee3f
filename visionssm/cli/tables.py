"""Columns of text for terminals and for programs that take lines apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Row = Sequence[str]


def print_columns(header: Row, rows: Sequence[Row], *, right: Collection[str] = (), ruled: bool = False) -> None:
    """Print rows under a header, two spaces between the columns.

    Args:
        header: names of the columns.
        rows: of as many texts.
        right: names of columns that are flush right, such as numbers.
        ruled: draw a line below the header.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = [tuple("─" * width for width in widths)] if ruled else []
    for row in (header, *rule, *rows):
        cells = [
            f"{text:>{width}}" if name in right else f"{text:<{width}}"
            for name, text, width in zip(header, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
