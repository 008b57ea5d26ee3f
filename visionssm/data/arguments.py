"""Dataclasses from the arguments that a config or a file gives, and what is wrong with these, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest

_Kind = TypeVar("_Kind")


def checked(kind: type[_Kind], what: str, given: Any, error: type[ValueError] = DatasetError) -> _Kind:
    """A dataclass of these fields.

    Args:
        kind: the dataclass, which looks at the values itself.
        what: how the arguments are called where they come from.
        given: its fields by name.
        error: what is raised.
    Raises:
        ValueError: (`error`) it is no dictionary, a field is unknown or missing, or (from the dataclass) out of range.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Window:
        ...     side: int = 8
        >>> checked(Window, "window", {"side": 4})
        Window(side=4)
        >>> checked(Window, "window", {"sides": 4})
        Traceback (most recent call last):
        ...
        visionssm.data.errors.DatasetError: window: unknown key 'sides' with the value 4; closest: 'side'; ...
    """
    if not isinstance(given, Mapping):
        raise error(f"{what} must be a dict, got {given!r:.80}")
    known = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            found = closest(str(key), known)
            others = f"; known are {', '.join(known)}" if found.startswith("'") else ""
            raise error(f"{what}: unknown key {key!r} with the value {value!r:.80}; closest: {found}{others}")
    needed = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in given]
    if missing:
        raise error(f"{what} lacks {', '.join(missing)}; it has {', '.join(map(str, given)) or 'nothing'}")
    return kind(**given)


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether it is a finite number, and no truth value.

    Args:
        whole: a whole number, that is 2 and not 2.0.
    """
    kind = Integral if whole else Real
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any, count: int | None = None, *, whole: bool = False) -> bool:
    """Whether it is a list or tuple of finite numbers, of so many if `count` is given.

    Examples:
        >>> are_numbers([0.5, 2], 2), are_numbers([0.5, 2], whole=True), are_numbers("12")
        (True, False, False)
    """
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        return False
    return len(values) == (len(values) if count is None else count) and all(is_number(x, whole=whole) for x in values)
