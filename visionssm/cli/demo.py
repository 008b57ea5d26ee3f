"""A page to try a model in a browser: drop a picture (a volume, a sweep) on it and see what the model finds.

  visionssm demo work_dirs/vmamba_nano_digits/best.pth

CHECKPOINT is what `visionssm predict` takes. The page shows classes, boxes or masks over the image, of classifiers what
in the image speaks for the class, the time it took and the model's card; `/predict` and all else of `visionssm serve`
are there too. It listens on 127.0.0.1, where only this machine can ask, unless --host says otherwise, and loads nothing
from elsewhere.

Exit status: 0 when it was stopped, 2 if the checkpoint or the arguments are unusable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from visionssm.cli.errors import stoppable
from visionssm.cli.options import parser_of
from visionssm.cli.serve import add_options, run


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("demo", __doc__)
    add_options(parser)
    parser.set_defaults(port=7860)
    parser.add_argument(
        "--examples", type=Path, nargs="+", default=[], metavar="FILE", help="offered on the page, or folders of such"
    )
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), arguments, page=True)
