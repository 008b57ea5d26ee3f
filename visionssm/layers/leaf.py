"""Modules and functions that stay whole in a graph of torch.fx, because they look at sizes, dtypes or the device.

timm's tracer has lists of what it does not look into. Other tracers, as `torch.fx.symbolic_trace`, torchvision's
`create_feature_extractor` and `prepare_fx`, have none that one may add to: when one of them gives a symbol in place of
a tensor, the module or function writes itself into the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from timm.models import register_notrace_function, register_notrace_module
from torch import nn
from torch.fx import Proxy

ModuleClass = TypeVar("ModuleClass", bound=type[nn.Module])
P = ParamSpec("P")
R = TypeVar("R")


def leaf_module(kind: ModuleClass) -> ModuleClass:
    """Decorator of a module's class: it, and any subclass, is one node of a graph."""

    def of_subclass(cls: type[nn.Module], **kwargs: Any) -> None:
        super(kind, cls).__init_subclass__(**kwargs)  # type: ignore[arg-type, misc]
        if "forward" in cls.__dict__:
            cls.forward = _whole(cls.forward)  # type: ignore[method-assign]

    kind.__init_subclass__ = classmethod(of_subclass)  # type: ignore[assignment]
    kind.forward = _whole(kind.forward)  # type: ignore[method-assign]
    return register_notrace_module(kind)


def _whole(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def traced(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, Proxy):
            tracer: Any = x.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (x, *args), kwargs)
        return forward(self, x, *args, **kwargs)

    return traced


def leaf_function(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function: a call is one node of a graph."""

    @functools.wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        symbol = _symbol_in((*args, *kwargs.values()))
        if symbol is not None:
            tracer: Any = symbol.tracer
            node: Any = tracer.create_proxy("call_function", traced, args, kwargs)
            return node
        return function(*args, **kwargs)

    return register_notrace_function(traced)


def _symbol_in(values: Iterable[Any]) -> Proxy | None:
    for value in values:
        found = value if isinstance(value, Proxy) else _symbol_in(value) if isinstance(value, tuple) else None
        if found is not None:
            return found
    return None
