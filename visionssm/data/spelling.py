"""The known name that a mistyped one most likely means."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_TOLD = 40


def closest(name: str, known: Iterable[str]) -> str:
    """The known name most similar to `name`, quoted; all known names, or the first 40, if none is similar.

    Case and separators do not count: `numClasses` finds `num_classes`.
    """
    names = {_plain(x): x for x in sorted(known)}
    found = get_close_matches(_plain(name), names, n=1, cutoff=0.4)
    if found:
        return repr(names[found[0]])
    told = sorted(names.values())
    more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return "none is similar; known are " + ", ".join(told[:_MOST_TOLD]) + more


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
