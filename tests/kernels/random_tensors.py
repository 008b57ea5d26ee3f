"""Random arguments of operators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def normals(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A function from sizes to normal numbers, which are the same in every dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return normal
