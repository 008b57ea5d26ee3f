"""What the command lines say when something stops them."""

from __future__ import annotations

import sys

from visionssm.data.text import printable


def tell(error: Exception) -> None:
    """Print an error that the user can mend; names of files in it are shown, not obeyed by the terminal."""
    print("error:", printable(error, keep="\n"), file=sys.stderr)
