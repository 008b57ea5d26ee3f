"""Evaluate a checkpoint: tools/test.py CONFIG CHECKPOINT [--out predictions.csv] [--pictures FOLDER] …

  visionssm test vmamba_nano_digits work_dirs/vmamba_nano_digits/best.pth

Prints the metrics: for classifiers top-1 and, of six classes and more, top-5 accuracy in percent, for detectors COCO's
average precision, for segmentation the mean intersection over union, both between 0 and 1.

Exit status: 0 when evaluation ended, 1 when something that you can mend stopped it, 2 if the arguments are unusable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.launch import evaluate, require_train_extra
from visionssm.cli.options import add_config_options, parser_of
from visionssm.engine.errors import USER_ERRORS
from visionssm.processes import LAUNCHERS, launcher, rank, silent


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("test", __doc__)
    parser.add_argument("config", help="a file, or the name of a configuration that comes with visionssm")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write a classifier's prediction of every sample")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw every image with what was found in it")
    parser.add_argument("--work-dir", type=Path, help="for logs; work_dirs/CONFIG by default")
    parser.add_argument("--launcher", choices=LAUNCHERS, default=launcher())
    add_config_options(parser)
    return parser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on unusable arguments."""
    parser = make_parser()
    with silent() if rank() else nullcontext():
        return parser.parse_args(arguments)


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    try:
        require_train_extra()
        given = parse_arguments(arguments)
        metrics = evaluate(
            given.config,
            given.checkpoint,
            out=given.out,
            pictures=given.pictures,
            work_dir=given.work_dir,
            launcher=given.launcher,
            options=given.cfg_options,
        )
    except USER_ERRORS as error:
        tell(error)
        return 1
    for name, value in metrics.items() if rank() == 0 else ():
        print(f"{name}: {value:.4f}")
    return 0
