"""What the command lines say when something stops them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from visionssm.data.text import printable
from visionssm.processes import is_first_to_say

INTERRUPTED = 130
"""Exit status after Ctrl-C, the one that shells expect."""


READ_ENOUGH = 128 + 13
"""Exit status where who reads the output has read enough, as `| head`: what a shell says of SIGPIPE."""

OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ELOOP", "EMFILE", "ENFILE")
    if hasattr(errno, name)
)
"""Errors of files and folders that no program is to blame for."""


def prepare_streams() -> None:
    """Make output possible whatever the streams are: closed ones lead nowhere, others show what they cannot encode."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`; a file that is opened later must not get its number
            with contextlib.suppress(OSError):
                while os.open(os.devnull, os.O_RDWR) < number:
                    pass
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115  it stays open
        elif number and hasattr(stream, "reconfigure") and not _is_utf_8(stream.encoding):
            stream.reconfigure(errors="backslashreplace")


def _is_utf_8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("_", "-") in ("utf-8", "utf8")


def _give_up_output() -> None:
    """Lead what is still to be printed nowhere, so that Python does not complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stoppable(main: Callable[..., int]) -> Callable[..., int]:
    """A command that ends with a sentence and a status where it cannot go on for no fault of its own.

    These are Ctrl-C (`INTERRUPTED`), output that nobody reads any more (`READ_ENOUGH`) and, with status 1, a full disk
    and the like (`OF_THE_MACHINE`).
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        prepare_streams()
        try:
            status = main(arguments)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            _give_up_output()
            return READ_ENOUGH
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            where = "what is printed" if error.filename is None else repr(str(error.filename2 or error.filename))
            _give_up_output()
            tell(OSError(f"cannot write or read {where}: {error.strerror}"))
            return 1
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
