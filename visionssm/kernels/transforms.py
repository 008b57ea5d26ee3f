"""Compiled operators under all of PyTorch's transforms: derivatives of any order, `torch.func`, `vmap`, forward mode.

A compiled operator has kernels for its values and for its gradients. Everything else comes from these two and from the
operator's definition in plain PyTorch:

- gradients of gradients are the definition's: right, in the time and memory that the definition takes;
- `vmap` runs the operator once for each slice;
- forward-mode derivatives run the definition in place of the operator (see `forward_mode`).

PyTorch would otherwise take what it does not know about an operator for a derivative of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils._device import DeviceContext

Definition = Callable[..., Tensor | tuple[Tensor, ...]]


def forward_mode() -> bool:
    """Whether derivatives are computed along with values (`torch.autograd.forward_ad`, `torch.func.jvp`)."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether a function of `torch.func` is at work; compilers trace operators as they are."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def observed(inputs: Iterable[Any]) -> bool:
    """Whether anything but the operator's kernels has to know of a call: what `traced` tells, or a profiler."""
    return traced(inputs) or torch.autograd._profiler_enabled()


def modes_see_functions() -> bool:
    """Whether a mode sees calls, other than a default device (`torch.set_default_device`, `with torch.device(…)`).

    That is a mode of PyTorch's too, but changes only where new tensors are made without a device.
    """
    modes = torch.overrides._get_current_function_mode_stack() if torch._C._len_torch_function_stack() else ()
    return not all(isinstance(mode, DeviceContext) for mode in modes)


def traced(inputs: Iterable[Any]) -> bool:
    """Whether a call is for a compiler, tracer or mode, or its tensors are not plain ones.

    Those are tensors of other types, without memory, or whose memory holds the negative or conjugate of what they are
    (PyTorch resolves that on the way to an operator).
    """
    return torch._C._len_torch_function_stack() > 0 or recorded(inputs)


def recorded(inputs: Iterable[Any]) -> bool:
    """What `traced` tells, but of modes of functions."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    ):
        return True
    for x in inputs:
        kind = type(x)
        if kind is Tensor or kind is Parameter:
            if x.is_meta or x.is_neg() or x.is_conj():
                return True
        elif isinstance(x, Tensor):
            return True
    return False


def may_need_gradients(inputs: Iterable[Any]) -> bool:
    """Whether a backward pass may follow: what it starts from has to be saved."""
    if not torch.is_grad_enabled():
        return False
    # Inside a transform, tensors do not say what the transforms outside of it will ask for.
    return transformed() or any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


class Operator:
    """A registered operator as autograd and all transforms of `torch.func` can differentiate and vectorise it.

    Args:
        library: in which the operator is defined.
        name: of the operator.
        setup_context, backward: as for `torch.library.register_autograd`.
        kernels: what the operator runs. Given, it is called straight away where nothing else has to know of a call
            (see `observed`): PyTorch's way to an operator takes longer than a small kernel.
    """

    def __init__(
        self,
        library: torch.library.Library,
        name: str,
        setup_context: Callable[[Any, tuple[Any, ...], Any], None],
        backward: Callable[..., tuple[Tensor | None, ...]],
        kernels: Callable[..., Any] | None = None,
    ) -> None:
        qualified = f"{library.ns}::{name}"
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=library)
        self._operator = getattr(getattr(torch.ops, library.ns), name)

        def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
            return _slice_by_slice(self._function.apply, info.batch_size, in_dims, inputs)

        # The functions of torch.func take an operator as a Function whose context is set up apart.
        methods = {
            "forward": staticmethod(lambda *inputs: self._operator(*inputs)),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
            "vmap": staticmethod(vmap),
        }
        self._function: Any = type(name, (torch.autograd.Function,), methods)
        self._kernels = kernels

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = kernels(*inputs) if kernels else None
            setup_context(ctx, inputs, output)
            return output

        # Where no transform is at work, a Function whose forward has the context: PyTorch binds the arguments of others
        # to their signature in every call, which takes longer than a small kernel.
        with_context = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._differentiable_kernels: Any = type(name, (torch.autograd.Function,), with_context)

    def __call__(self, *inputs: Any) -> Any:
        """Run the operator on tensors of any transform."""
        if transformed():
            return self._function.apply(*inputs)
        if self._kernels is None or observed(inputs):
            return self._operator(*inputs)
        return (self._differentiable_kernels.apply if may_need_gradients(inputs) else self._kernels)(*inputs)


def gradient_operator(
    library: torch.library.Library,
    name: str,
    definition: Definition,
    n_gradients: int,
    n_inputs: int,
    kernels: Callable[..., Any] | None = None,
) -> Operator:
    """The operator that computes gradients of another, whose own derivatives are those of the definition.

    Args:
        library: in which the operator is defined.
        name: of the operator. It takes the gradients of `n_gradients` results (or None), then `n_inputs` tensors (or
            None) that the other operator takes, then whatever else it needs. It returns a gradient for each of those
            inputs, of any size for None, and none for integers.
        definition: of the other operator: those results, from those inputs and what is no tensor among the rest.
        n_gradients, n_inputs: see `name`.
        kernels: see `Operator`.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: n_gradients + n_inputs])
        ctx.options = [x for x in inputs[n_gradients + n_inputs :] if not isinstance(x, Tensor)]
        ctx.n_rest = len(inputs) - n_gradients - n_inputs

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors

        def first(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            of_inputs = gradients(
                lambda *inputs: definition(*inputs, *ctx.options), tensors[n_gradients:], tensors[:n_gradients]
            )
            return tuple(g for g in of_inputs if g is not None)

        results = [x for x in saved[n_gradients:] if x is None or _has_gradient(x)]
        cotangents = [g for g, x in zip(grads, results, strict=True) if x is not None]
        return (*gradients(first, saved, cotangents), *(None,) * ctx.n_rest)

    return Operator(library, name, setup_context, backward, kernels)


def gradients(
    function: Definition, inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of plain PyTorch, which can be differentiated again; None for integers and for what is None.

    Args:
        function: of all inputs.
        inputs: where it is evaluated.
        cotangents: gradients of what it returns; None for zeros.
    """
    places = [i for i, x in enumerate(inputs) if x is not None and _has_gradient(x)]

    def of_differentiable(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = list(inputs)
        for i, x in zip(places, tensors, strict=True):
            given[i] = x
        found = function(*given)
        return found if isinstance(found, tuple) else (found,)

    results, pull_back, *_ = torch.func.vjp(of_differentiable, *(inputs[i] for i in places))
    filled = tuple(torch.zeros_like(y) if g is None else g for y, g in zip(results, cotangents, strict=True))
    found = dict(zip(places, pull_back(filled), strict=True))
    return tuple(found.get(i) for i in range(len(inputs)))


def _has_gradient(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _slice_by_slice(
    call: Callable[..., Any], size: int, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Results for each slice of the inputs along `in_dims`, stacked, and the axes along which they are stacked."""
    slices = [
        call(*(x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True)))
        for i in range(size)
    ]
    if isinstance(slices[0], Tensor):
        return torch.stack(slices), 0
    return tuple(torch.stack(parts) for parts in zip(*slices, strict=True)), (0,) * len(slices[0])
