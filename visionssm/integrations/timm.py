"""timm's own scripts with this package's models: python -m visionssm.integrations.timm validate.py DATA --model NAME

timm's `train.py`, `validate.py`, `benchmark.py` and the other scripts of its repository know the models that were
registered before they begin. This registers ours and then runs the script as `python SCRIPT …` does:

  python -m visionssm.integrations.timm validate.py /data/imagenet --model vmamba_tiny_s1l8 --pretrained
  torchrun --nproc-per-node 4 -m visionssm.integrations.timm train.py /data/imagenet --model vmamba_tiny_s1l8

Exit status: the script's; 2 if there is no such script.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import visionssm  # noqa: F401  registers the models


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script; returns 2 if there is none, else 0, unless the script ends Python itself.

    Args:
        arguments: the script's path and what it is given; None for those of the command line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    script = Path(given[0])
    if not script.is_file():
        print(
            f"error: there is no script {given[0]!r}; give the path of one of timm's, then its options", file=sys.stderr
        )
        return 2
    sys.argv = given
    sys.path.insert(0, os.fspath(script.resolve().parent))  # as for `python SCRIPT`: its neighbours can be imported
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
