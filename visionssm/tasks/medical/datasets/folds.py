"""Parts of a set to train on and to choose a model by, where the set comes in one."""

from __future__ import annotations

from collections.abc import Sequence

from visionssm.data.errors import DatasetError

PARTS = ("train", "val", "all")
FOLDS = 5


def part_of(names: Sequence[str], part: str, fold: int) -> list[int]:
    """Numbers of the entries that belong to a part.

    Args:
        names: of what must stay together: entries of one name are in one part.
        part: "val" for every fifth name in alphabetical order, "train" for the others, "all".
        fold: which of the five is "val", 0 to 4.
    Raises:
        DatasetError: an argument is unknown.

    Examples:
        >>> part_of(["a", "a", "b", "c", "d", "e", "f"], "val", 0)
        [0, 1, 6]
    """
    if part not in PARTS or fold not in range(FOLDS):
        raise DatasetError(f"part must be one of {', '.join(PARTS)} and fold 0 to {FOLDS - 1}, got {part!r} and {fold}")
    places = {name: n % FOLDS for n, name in enumerate(sorted(set(names)))}
    return [n for n, name in enumerate(names) if part == "all" or (places[name] == fold) == (part == "val")]
