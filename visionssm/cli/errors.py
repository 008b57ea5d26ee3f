"""What the command lines say when something stops them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from visionssm.data.text import printable
from visionssm.processes import is_first_to_say

INTERRUPTED = 130
"""Exit status after Ctrl-C, the one that shells expect."""


def stoppable(main: Callable[..., int]) -> Callable[..., int]:
    """A command that Ctrl-C ends with a sentence and the status `INTERRUPTED`."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except KeyboardInterrupt:
            text = "stopped by SIGINT: files that are there are complete, what was in hand was not written"
            if is_first_to_say(text):
                print(text, file=sys.stderr)
            return INTERRUPTED

    return run


def tell(error: Exception) -> None:
    """Print an error that the user can mend; names of files in it are shown, not obeyed by the terminal.

    Where several processes have the same to tell, one of them does.
    """
    text = printable(error, keep="\n")
    if is_first_to_say(text):
        print("error:", text, file=sys.stderr)
