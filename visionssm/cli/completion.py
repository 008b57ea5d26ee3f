"""Completion of `visionssm`'s commands, options and choices for a shell: visionssm completion bash|zsh|tcsh

  visionssm completion bash > ~/.local/share/bash-completion/completions/visionssm

What is printed is a plain script: completing a word starts no Python.

Exit status: 0 if it was printed, 2 if the shell is not known or shtab is not installed.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from visionssm.cli import COMMANDS
from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.extras import needs_extra

SHELLS = ("bash", "zsh", "tcsh")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("completion", __doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """One parser of all commands."""
    whole = argparse.ArgumentParser("visionssm")
    commands = whole.add_subparsers(dest="command")
    for name, about in COMMANDS.items():
        parser = importlib.import_module(f"visionssm.cli.{name}").make_parser()
        parser.prog = f"visionssm {name}"
        commands.add_parser(name, help=about)
        commands.choices[name] = parser
    return whole


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        with needs_extra("train", "completion"):
            import shtab
        print(shtab.complete(whole_parser(), options.shell))
    except ImportError as error:
        tell(error)
        return 2
    return 0
