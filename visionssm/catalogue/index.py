"""All models as a file that comes with the package, so that they are listed without PyTorch.

`tools/write_results.py` writes it from the registered models, and a test tells when the two differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import cache
from importlib.resources import files
from typing import Any

from visionssm.catalogue.info import ModelInfo

NAME = "models.json"
_TUPLES = ("input_size", "mean", "std")


@cache
def indexed() -> tuple[ModelInfo, ...]:
    """All models, as `visionssm.catalogue.entries` has them from the registry."""
    return from_text((files("visionssm.catalogue") / NAME).read_text(encoding="utf-8"))


def as_text(infos: Iterable[ModelInfo]) -> str:
    """Models in JSON, a line each, of which what is not known is left out."""
    usual = {field.name: field.default for field in fields(ModelInfo)}
    known = [{key: x for key, x in asdict(info).items() if x != usual[key] and x != {}} for info in infos]
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in known) + "\n]\n"


def from_text(text: str) -> tuple[ModelInfo, ...]:
    """The models that `as_text` wrote."""
    return tuple(_info(entry) for entry in json.loads(text))


def _info(entry: dict[str, Any]) -> ModelInfo:
    known: dict[str, Any] = {key: tuple(x) if key in _TUPLES else x for key, x in entry.items()}
    return ModelInfo(**known)
