"""Operators whose sums are beyond half precision compute without autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast changes no dtype on this kind of device."""
    # Where autocast is off, no context is entered: exporters would keep it as an empty region around the loop.
    # Tensors without data have no autocast, and asking for it raises.
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
