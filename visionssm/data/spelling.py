"""The known name that a mistyped one most likely means."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most similar to `name`, quoted; all known names if none is similar.

    Case and separators do not count: `numClasses` finds `num_classes`.
    """
    names = {_plain(x): x for x in sorted(known)}
    found = get_close_matches(_plain(name), names, n=1, cutoff=0.4)
    return repr(names[found[0]]) if found else "none is similar; known are " + ", ".join(sorted(names.values()))


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
