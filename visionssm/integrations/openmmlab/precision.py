"""Half precision, for which torchvision lacks CPU operators."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In float32 what is in half precision; the rest as it is."""
    return tuple(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors)
