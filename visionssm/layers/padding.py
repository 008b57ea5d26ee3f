"""Images and volumes whose sides become multiples of a number.

While a model is exported, sizes are unknown: the code must not branch on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.kernels.routes import n_cells


def padded_to_multiples(x: Tensor, stride: Sequence[int], least_cells: int = 1, value: float = 0.0) -> Tensor:
    """(B, C, *sides) with `value` at the ends of the sides that are no multiples of `stride`.

    The last side becomes `least_cells` multiples long if the padded image were one cell of `stride` otherwise.
    """
    sides = x.shape[2:]
    if torch.compiler.is_exporting():  # must not branch on the sizes
        x = F.pad(x, [n for step in reversed(stride) for n in (0, step - 1)], value=value)
        return _first(x, [n_cells(side, step) * step for side, step in zip(sides, stride, strict=True)])
    missing = [-side % step for side, step in zip(sides, stride, strict=True)]
    if all(side <= step for side, step in zip(sides, stride, strict=True)):
        missing[-1] += (least_cells - 1) * stride[-1]
    return F.pad(x, [n for more in reversed(missing) for n in (0, more)], value=value) if any(missing) else x


def cropped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """The first `sides` of (B, C, *sides)."""
    if torch.compiler.is_exporting():
        return _first(x, sides)
    for axis, side in enumerate(sides, start=2):
        x = x.narrow(axis, 0, side)
    return x


def _first(x: Tensor, sides: Sequence[int]) -> Tensor:
    """A copy: exporters would ask whether a view is contiguous, which cannot be answered while sizes are open."""
    for axis, side in enumerate(sides, start=2):
        x = x.index_select(axis, torch.arange(side, dtype=torch.int64, device=x.device))
    return x
