"""The models of all tasks, with what is published of them and where their weights are: visionssm models [PATTERN]

  visionssm models 'vmamba_*' --pretrained
  visionssm models mambavision_tiny             (of one model: everything that is known)
  visionssm models --task medical --csv > medical.csv

Published figures are the authors'; parameters and GFLOPs are counted here. Weights come automatically (with
pretrained=True), or only by hand, from the page that is named.

Exit status: 0 if models were listed, 2 if there are none of that name or the arguments are unusable.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields

from visionssm.catalogue.index import indexed
from visionssm.catalogue.info import ModelInfo, named_among
from visionssm.catalogue.tables import SHOWN, as_csv, as_json, shown_rows
from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.cli.tables import Row, fitting, print_columns

SPARE = ("input", "GFLOPs", "licence", "task", "weights", "parameters")
"""Columns that a narrow terminal does not show, the first of them first; `visionssm models NAME` tells all."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("models", __doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="a name or a shell pattern in quotes; all by default")
    parser.add_argument("--pretrained", action="store_true", help="only those whose weights are published")
    parser.add_argument(
        "--task", choices=list(dict.fromkeys(info.task for info in indexed())), help="only those of a task"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print all that is known, as JSON")
    form.add_argument("--csv", action="store_true", help="print a table for spreadsheets, with timm's column names")
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    found = [
        info
        for info in indexed()
        if options.task in (None, info.task)
        and (info.download is not None or not options.pretrained)
        and (fnmatch.fnmatch(info.name, options.pattern) or fnmatch.fnmatch(info.architecture, options.pattern))
    ]
    try:
        if not found:
            if not any(mark in options.pattern for mark in "*?["):
                named_among(indexed(), options.pattern)  # says what is closest
            raise ValueError(f"no model matches {options.pattern!r} with these options; `visionssm models` lists all")
    except ValueError as error:
        tell(error)
        return 2
    if options.json:
        print(as_json(found))
    elif options.csv:
        print(as_csv(found), end="")
    elif len(found) == 1:
        print(described(found[0]))
    else:
        header: Row = SHOWN
        rows: Sequence[Row] = shown_rows(found)
        if sys.stdout.isatty():  # programs get all columns
            header, rows = fitting(SHOWN, rows, SPARE, shutil.get_terminal_size().columns)
        print_columns(header, rows, right=("parameters", "GFLOPs"), ruled=True)
    return 0


def described(info: ModelInfo) -> str:
    """All that is known of a model, a line a field."""
    width = max(len(field.name) for field in fields(info))
    known = [(field.name, getattr(info, field.name)) for field in fields(info)]
    return "\n".join(f"{name:<{width}}  {_text(value)}" for name, value in known if value not in (None, {}))


def _text(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {figure:g}" for key, figure in value.items())
    return "×".join(map(str, value)) if isinstance(value, tuple) and isinstance(value[0], int) else str(value)
