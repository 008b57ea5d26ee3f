"""Train a model from a configuration: tools/train.py CONFIG [--work-dir D] [--resume [PATH]] [--amp] …

  visionssm train vmamba_nano_digits                     (a configuration that comes with the package, by its name)
  visionssm train --list                                 (all of them; --list 'vim_*' some)
  visionssm train vmamba_t_imagenet --copy my_configs    (the file and its bases, to change them)

Several GPUs or processes: torchrun --nproc-per-node=8 tools/train.py CONFIG --launcher pytorch

Ctrl-C or SIGTERM: the step in hand is finished and saved, and --resume goes on from there.

Exit status: 0 when training ended, 1 when something that you can mend stopped it, 2 if the arguments are unusable,
130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from visionssm.cli.ending import ending
from visionssm.cli.errors import stoppable, tell
from visionssm.cli.launch import require_train_extra, train
from visionssm.cli.options import add_config_options, parser_of
from visionssm.engine.errors import USER_ERRORS, ConfigError
from visionssm.engine.shipped import about_config, copy_config, shipped_configs, shipped_root
from visionssm.processes import LAUNCHERS, launcher, rank, silent


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("train", __doc__)
    parser.add_argument(
        "config", nargs="?", help="a file, or the name of a configuration that comes with visionssm: see --list"
    )
    parser.add_argument("--list", action="store_true", help="print the configurations that come with visionssm")
    parser.add_argument(
        "--copy", type=Path, metavar="FOLDER", help="copy CONFIG and its bases to a folder, to start one of your own"
    )
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
    return parser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on unusable arguments."""
    parser = make_parser()
    with silent() if rank() else nullcontext():
        given = parser.parse_args(arguments)
        if given.config is None and not given.list:
            parser.error("name a configuration; --list shows those that come with visionssm")
        return given


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    try:
        given = parse_arguments(arguments)
        if given.list:
            print_list(given.config)
            return 0
        if given.copy is not None:
            for path in copy_config(given.config, given.copy):
                print(f"wrote {path}")
            return 0
        require_train_extra()
        runner = train(
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
    if rank() == 0:
        print("\n".join(ending(runner, given.config)))
    return 0


def print_list(pattern: str | None) -> None:
    """Print name and first line of the shipped configurations; of those that match a shell pattern, if one is given."""
    names = fnmatch.filter(shipped_configs(), pattern or "*")
    if not names:
        raise ConfigError(f"no configuration matches {pattern!r}; visionssm train --list shows all")
    width = max(map(len, names))
    folder = None
    for name in names:
        path = shipped_configs()[name]
        if path.parent != folder:
            folder = path.parent
            print(f"\n{folder.relative_to(shipped_root().parent)}")
        print(f"  {name:<{width}}  {about_config(path)}")
