"""Columns of text for terminals and for programs that take lines apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Row = Sequence[str]


def fitting(header: Row, rows: Sequence[Row], spare: Sequence[str], room: int) -> tuple[Row, Sequence[Row]]:
    """Header and rows without as many of the columns `spare`, the first of them first, as make them fit into a line.

    Args:
        header: names of the columns.
        rows: of as many texts.
        spare: names of columns that may be left out.
        room: letters of a line.
    """
    kept = list(range(len(header)))
    widths = [max(len(row[column]) for row in (header, *rows)) for column in kept]
    for name in spare:
        if sum(widths[column] + 2 for column in kept) - 2 <= room:
            break
        kept.remove(list(header).index(name))
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


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
