"""Train a model from a configuration: tools/train.py CONFIG [--work-dir D] [--resume [PATH]] [--amp] …

Several GPUs or processes: torchrun --nproc-per-node=8 tools/train.py CONFIG --launcher pytorch

Ctrl-C or SIGTERM: the step in hand is finished and saved, and --resume goes on from there.

Exit status: 0 when training ended, 1 when something that you can mend stopped it, 2 if the arguments are unusable,
130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from visionssm.cli.errors import tell
from visionssm.cli.launch import LAUNCHERS, require_train_extra, train
from visionssm.cli.options import add_config_options
from visionssm.engine.errors import USER_ERRORS
from visionssm.processes import launcher, rank, silent


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on unusable arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--work-dir", type=Path, help="for checkpoints, logs and figures; work_dirs/CONFIG by default")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="PATH",
        help="go on from the newest checkpoint of the work folder, or from PATH",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--launcher", choices=LAUNCHERS, default=launcher())
    add_config_options(parser)
    with silent() if rank() else nullcontext():
        return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    try:
        require_train_extra()
        given = parse_arguments(arguments)
        train(
            given.config,
            work_dir=given.work_dir,
            resume=given.resume,
            amp=given.amp,
            launcher=given.launcher,
            options=given.cfg_options,
        )
    except USER_ERRORS as error:
        tell(error)
        return 1
    except Exception as error:
        status = getattr(error, "status", None)  # of `Interrupted`, which needs the extra to be imported
        if status is None:
            raise
        print(error, file=sys.stderr)
        return int(status)
    return 0
