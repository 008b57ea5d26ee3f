"""The linear recurrence, defined: plain PyTorch, any dtype including float64 and complex128, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_recurrence_reference(a: Tensor, b: Tensor, state: Tensor | None) -> Tensor:
    """h_t = a_t h_{t−1} + b_t, a step at a time, along the first axis.

    Args:
        a: (T, …) or, for the same factor at every step, (1, …); broadcast against `b` in the other axes.
        b: (T, …).
        state: h_{−1}, (…); None for zeros.
    """
    h = torch.zeros_like(b[0]) if state is None else state
    states = []
    for t in range(b.shape[0]):
        h = a[t if a.shape[0] > 1 else 0] * h + b[t]
        states.append(h)
    return torch.stack(states)
