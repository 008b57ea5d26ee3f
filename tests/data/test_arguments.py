"""Dataclasses are made from the arguments of configs and files, and wrong ones are told by their names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from visionssm.data.arguments import are_numbers, checked, is_number
from visionssm.data.errors import DatasetError


@dataclass
class Window:
    side: int
    overlap: float = 0.5
    axes: list[int] = field(default_factory=list)
    area: int = field(init=False, default=0)


def test_dataclass_gets_the_fields_that_are_given() -> None:
    assert checked(Window, "window", {"side": 8, "axes": [1]}) == Window(8, 0.5, [1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"side": 8, "overlpa": 0.25},
            "^window: unknown key 'overlpa' with the value 0.25; closest: 'overlap'; known",
        ),
        ({"side": 8, "q": {}}, "closest: none is similar; known are axes, overlap, side$"),
        ({"side": 8, "area": 3}, "unknown key 'area'"),
        ({"side": 8, 3: 4}, "unknown key 3 with the value 4"),
        ({"overlap": 0.25}, "^window lacks side; it has overlap$"),
        ({}, "^window lacks side; it has nothing$"),
        ("side", "^window must be a dict, got 'side'$"),
        (None, "^window must be a dict, got None$"),
    ],
)
def test_wrong_fields_are_told_by_name_value_and_the_known_ones(given: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        checked(Window, "window", given)
    with pytest.raises(ValueError, match=message) as caught:
        checked(Window, "window", given, ValueError)
    assert caught.type is ValueError


def test_numbers_are_finite_and_no_truth_values() -> None:
    assert is_number(2, whole=True)
    assert is_number(np.int64(2), whole=True)
    assert is_number(np.float32(2.5))
    for wrong in (True, float("nan"), float("inf"), "2", None, [2]):
        assert not is_number(wrong), wrong
    assert not is_number(2.0, whole=True)
    assert are_numbers((1, 2.5), 2)
    assert are_numbers([], whole=True)
    for wrong in ((1, 2, 3), "12", 2, None, (1, None), {1: 2, 3: 4}):
        assert not are_numbers(wrong, 2), wrong
