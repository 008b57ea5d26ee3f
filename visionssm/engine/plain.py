"""Nested states as dicts, lists, tuples, strings, numbers and tensors: what `torch.load(weights_only=True)` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_HISTORY = "__history__"


def to_plain(value: Any, where: str = "checkpoint") -> Any:
    """Copy a nested state into plain types; MMEngine's history buffers become pairs of float64 tensors.

    Raises:
        TypeError: something else is in it, at the named place.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {_plain_key(key, where): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value).__name__ == "HistoryBuffer":
        log, count = value.data
        return {_HISTORY: [torch.from_numpy(np.asarray(x, dtype=np.float64).copy()) for x in (log, count)]}
    if isinstance(value, (bool, int, float, str)):  # subclasses: enums, numpy's, …
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold; store plain types")


def _plain_key(key: Any, where: str) -> str | int:
    if isinstance(key, (str, int)):
        return key
    raise TypeError(f"{where} has the key {key!r}; keys must be strings or integers")


def restore_histories(value: Any) -> Any:
    """Turn pairs of tensors back into MMEngine's history buffers, which its message hub needs."""
    from mmengine.logging import HistoryBuffer

    if isinstance(value, Mapping):
        if _HISTORY in value:
            log, count = value[_HISTORY]
            return HistoryBuffer(log.tolist(), count.tolist())
        return {key: restore_histories(item) for key, item in value.items()}
    return value
