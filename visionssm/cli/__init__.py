"""The command lines. `tools/NAME.py` and `visionssm NAME` call `main` of the module of that name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = ("train", "test", "predict", "visualize", "export")
_USAGE = f"usage: visionssm {{{','.join(COMMANDS)}}} …; each tells more with --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `visionssm NAME …`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return 0
    if not given or given[0] not in COMMANDS:
        print(_USAGE, file=sys.stderr)
        return 2
    return int(importlib.import_module(f"visionssm.cli.{given[0]}").main(given[1:]))
