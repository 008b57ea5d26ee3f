"""What packages whose models and data sets configs name with `default_scope` need of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Scope:
    """How the engine gets on with the models and data sets of another package.

    Attributes:
        check_data: looks through the data set of a config, before anything is built; raises a `DatasetError`.
        describe: (config of the run, training set or None) to what a checkpoint says of its model.
        without_downloads: takes out of a config what would fetch weights that a checkpoint brings anyway.
        test_hooks: (folder of pictures or None, file of results or None) to hooks that write these in a test.
    """

    check_data: Callable[[Mapping[str, Any]], None]
    describe: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    without_downloads: Callable[[Any], None]
    test_hooks: Callable[[Path | None, Path | None], list[Any]]


SCOPES: dict[str, Scope] = {}
"""By the name of the scope; tasks fill it when they are used."""
