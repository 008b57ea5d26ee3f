"""The recurrence as a higher-order operator: a loop of any length that exporters know (ONNX: `Scan`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan


def exportable_steps(h: Tensor, delta: Tensor, drive: Tensor, b: Tensor, c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.step_by_step` with the number of steps left open."""
    a = a[:, None]  # (K, 1, Dk, N)

    def step(h: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        delta_t, drive_t, b_t, c_t = inputs
        h = torch.exp(delta_t[..., None] * a) * h + drive_t[..., None] * b_t[..., None, :]
        return h, (h * c_t[..., None, :]).sum(-1)

    steps_first = tuple(x.movedim(3, 0) for x in (delta, drive, b, c))
    h, y = scan(step, h, steps_first, dim=0)
    return y.movedim(0, 3), h
