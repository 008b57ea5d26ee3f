"""The limits of what a file may hold, to the last container and item."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from visionssm.checkpoints import extent
from visionssm.checkpoints.extent import Record, check_extent


def nested(depth: int, kind: Any = lambda inside: [inside]) -> Any:
    """Containers in one another, so many."""
    value: Any = []
    for _ in range(depth - 1):
        value = kind(value)
    return value


def in_record(inside: Any) -> Record:
    record = Record()
    record.state = inside
    return record


KINDS = [
    lambda inside: [inside],
    lambda inside: [0, inside],
    lambda inside: (0, 0, inside, 0),
    lambda inside: {"key": inside},
    lambda inside: {"key": 0, "other": inside},
    lambda inside: argparse.Namespace(x=inside),
    in_record,
]


@pytest.mark.parametrize("kind", KINDS)
def test_64_containers_may_stand_in_one_another_and_no_more(kind: Any) -> None:
    check_extent(nested(64, kind))
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        check_extent(nested(65, kind))


def test_depth_below_a_shared_container_counts_from_where_it_stands() -> None:
    shared = nested(40)
    check_extent([shared, nested(24, lambda inside: [inside])])
    deep: Any = shared
    for _ in range(24):
        deep = [deep]
    check_extent([deep[0], shared])
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        check_extent([shared, deep])


def test_items_count_once_for_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [1, 2, 3]  # with itself 4 items
    value = {"a": shared, "b": shared}  # with itself and the keys 11
    monkeypatch.setattr(extent, "MAX_ITEMS", 11)
    check_extent(value)
    monkeypatch.setattr(extent, "MAX_ITEMS", 10)
    with pytest.raises(ValueError, match="10 items and more to walk"):
        check_extent(value)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_contains_itself_is_refused_wherever_it_does(place: int) -> None:
    value: list[Any] = [0, 0, 0]
    value[place] = {"inside": value}
    with pytest.raises(ValueError, match="contains itself"):
        check_extent([0, value])
