"""A loop in the place of PyTorch's `scan`, for tests of what a step computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree


def scan_in_a_loop(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any, *, dim: int) -> Any:
    """The final state and the stacked outputs, as `torch._higher_order_ops.scan` gives them.

    Outside of an exporter that one compiles the step anew for each shape, which takes seconds.
    """
    assert dim == 0
    leaves, spec = pytree.tree_flatten(inputs)
    outputs = []
    for of_a_step in zip(*leaves, strict=True):
        state, output = step(state, pytree.tree_unflatten(of_a_step, spec))
        outputs.append(output)
    return state, pytree.tree_map(lambda *each: torch.stack(each), *outputs)
