"""Every model of the package in one list: what is published of it, what is counted here, and how its weights come."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visionssm.catalogue.info import ModelInfo

if TYPE_CHECKING:
    from visionssm.catalogue.listing import TASKS, entries, list_models, model_info

__all__ = ["TASKS", "ModelInfo", "entries", "list_models", "model_info"]


def __getattr__(name: str) -> Any:
    """What is made of the registered models, for which PyTorch is imported; `.index` does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module("visionssm.catalogue.listing"), name)
    return value
