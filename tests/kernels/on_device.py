"""Inputs of the interpreter's cases on another device."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = {
    torch.randn,
    torch.rand,
    torch.zeros,
    torch.ones,
    torch.empty,
    torch.full,
    torch.arange,
    torch.linspace,
    torch.tensor,
    torch.eye,
}


class OnDevice(TorchFunctionMode):
    """Factories that name no device make their tensors on the CPU, with any generator, and move them.

    So a case has the same numbers on every device.
    """

    def __init__(self, device: str | torch.device) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in FACTORIES or kwargs.get("device") is not None:
            return func(*args, **kwargs)
        wants_grad = kwargs.pop("requires_grad", False)
        return func(*args, **kwargs, device="cpu").to(self.device).requires_grad_(wants_grad)
