"""What the command lines say when something stops them."""

from __future__ import annotations

import sys

from visionssm.data.text import printable
from visionssm.processes import is_first_to_say


def tell(error: Exception) -> None:
    """Print an error that the user can mend; names of files in it are shown, not obeyed by the terminal.

    Where several processes have the same to tell, one of them does.
    """
    text = printable(error, keep="\n")
    if is_first_to_say(text):
        print("error:", text, file=sys.stderr)
