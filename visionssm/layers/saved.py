"""What is kept between a forward and its backward pass: maps that are cheap to make again are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from visionssm.kernels.transforms import traced, transformed

Recipe = Callable[[], Tensor]


@contextmanager
def made_again(x: Tensor, recipe: Recipe, *, reads: Iterable[Tensor]) -> Iterator[None]:
    """PyTorch's operators inside keep `recipe` in place of `x`, which the backward pass makes again when it needs it.

    Gradients of gradients are right too. Nothing changes without gradients, under autocast (of which the backward pass
    does not know), and where a compiler, tracer or transform is at work. The recipe should keep nothing that is not
    kept anyway. As without it, the backward pass raises a RuntimeError where a tensor that it needs has been changed in
    place since.

    Args:
        x: what the operators take.
        recipe: makes a tensor that is equal to `x`; called without gradients.
        reads: the tensors that the recipe makes it of.

    Examples:
        >>> import torch
        >>> from visionssm.layers.saved import made_again
        >>> x = torch.ones(3, requires_grad=True)
        >>> double = 2 * x
        >>> with made_again(double, lambda: 2 * x, reads=[x]):
        ...     y = double * double
        >>> torch.autograd.grad(y.sum(), x)
        (tensor([8., 8., 8.]),)
    """
    if not torch.is_grad_enabled() or traced((x,)) or transformed() or torch.is_autocast_enabled(x.device.type):
        yield
        return
    place, described = x.data_ptr(), (x.shape, x.stride(), x.dtype)  # and not `x` itself, which is to be freed
    sources = [_unchanged(source) for source in reads]

    def again() -> Tensor:
        for source in sources:
            source()
        with torch.no_grad():
            return recipe()

    def keep(saved: Tensor) -> Recipe:
        same = saved.data_ptr() == place and (saved.shape, saved.stride(), saved.dtype) == described
        return again if same else _unchanged(saved)

    with torch.autograd.graph.saved_tensors_hooks(keep, _given):
        yield


def _given(saved: Recipe) -> Tensor:
    return saved()


def _unchanged(saved: Tensor) -> Recipe:
    """What gives a tensor back, if nobody has changed it; PyTorch does not look where such hooks are.

    It is detached, as a result of an operator that the operator keeps would keep the operator, and neither be freed.
    """
    kept, version = saved.detach(), saved._version

    def give() -> Tensor:
        if kept._version != version:
            raise RuntimeError(
                f"a tensor {tuple(kept.shape)} of {kept.dtype} that the backward pass needs has been modified by an "
                f"inplace operation: it is at version {kept._version}, expected version {version}"
            )
        return kept

    return give
