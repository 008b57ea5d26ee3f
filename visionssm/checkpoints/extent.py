"""How deep and how large a nested value is, measured without walking it more than once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
MAX_ITEMS = 10_000_000  # counted as a walk meets them that enters a shared container once for each of its places


class Record:
    """Stands for a harmless bookkeeping object whose class need not be installed; keeps its state, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None


def _inside(value: Any) -> list[Any] | None:
    """What a container holds; None for anything else."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, argparse.Namespace):
        return list(vars(value).values())
    return [value.args, value.state] if isinstance(value, Record) else None


def check_extent(value: Any) -> None:
    """Refuse what a walk through all its parts would not end in good time.

    Raises:
        ValueError: it contains itself, is nested more than `MAX_DEPTH` deep, or shares its containers so often that a
            walk meets more than `MAX_ITEMS` items.
    """
    walked: dict[int, tuple[int, int]] = {}  # container → depth and items below it
    path: list[tuple[Any, list[Any], int]] = []  # container, what is in it, how much of that was seen
    entered: set[int] = set()

    def enter(item: Any) -> None:
        inside = _inside(item)
        if inside is None or id(item) in walked:
            return
        if id(item) in entered:
            raise ValueError("it holds a container that contains itself")
        if len(path) >= MAX_DEPTH:
            raise ValueError(f"its containers are nested more than {MAX_DEPTH} deep")
        entered.add(id(item))
        path.append((item, inside, 0))

    enter(value)
    while path:
        item, inside, seen = path.pop()
        if seen < len(inside):
            path.append((item, inside, seen + 1))
            enter(inside[seen])
            continue
        below = [walked.get(id(x), (0, 1)) for x in inside]
        depth, items = 1 + max((d for d, _ in below), default=0), 1 + sum(n for _, n in below)
        if depth > MAX_DEPTH:
            raise ValueError(f"its containers are nested more than {MAX_DEPTH} deep")
        if items > MAX_ITEMS:
            raise ValueError(f"its containers stand in one another too often: {MAX_ITEMS:,} items and more to walk")
        walked[id(item)] = depth, items
        entered.discard(id(item))
