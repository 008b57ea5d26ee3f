"""What is kept between a forward and its backward pass: maps that are cheap to make again are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from visionssm.kernels.transforms import traced, transformed

Saved = Tensor | Callable[[], Tensor]


@contextmanager
def made_again(x: Tensor, recipe: Callable[[], Tensor]) -> Iterator[None]:
    """PyTorch's operators inside keep `recipe` in place of `x`, which the backward pass makes again when it needs it.

    Gradients of gradients are right too. Nothing changes without gradients, under autocast (of which the backward pass
    does not know), and where a compiler, tracer or transform is at work. The recipe should keep nothing that is not
    kept anyway.

    Args:
        x: what the operators take.
        recipe: makes a tensor that is equal to `x`; called without gradients.

    Examples:
        >>> import torch
        >>> from visionssm.layers.saved import made_again
        >>> x = torch.ones(3, requires_grad=True)
        >>> double = 2 * x
        >>> with made_again(double, lambda: 2 * x):
        ...     y = double * double
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([8., 8., 8.]),)
    """
    if not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or traced((x,)) or transformed():
        yield
        return
    place, described = x.data_ptr(), (x.shape, x.stride(), x.dtype)  # and not `x` itself, which is to be freed

    def keep(saved: Tensor) -> Saved:
        same = saved.data_ptr() == place and (saved.shape, saved.stride(), saved.dtype) == described
        return recipe if same else saved

    def give(saved: Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        with torch.no_grad():
            return saved()

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield
