"""The recurrence as a higher-order operator: a loop of any length that exporters know (ONNX: `Scan`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan


def exportable_linear_recurrence(a: Tensor, b: Tensor, state: Tensor | None) -> Tensor:
    """`reference.linear_recurrence_reference` with the number of steps left open; real numbers only."""
    start = torch.zeros_like(b[0]) if state is None else state.clone()

    def step(h: Tensor, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a_t, b_t = inputs
        h = a_t * h + b_t
        return h, h.clone()

    if a.shape[0] == 1:
        a = a.expand(b.shape[0], *a.shape[1:])
    return scan(step, start, (a, b), dim=0)[1]
