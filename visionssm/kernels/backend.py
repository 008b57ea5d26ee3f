"""Which implementation of an operator runs: Triton on GPUs, compiled kernels on CPUs, or the PyTorch definition."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from visionssm.kernels.transforms import forward_mode, modes_see_functions, recorded, transformed

BACKENDS = ("auto", "reference", "export", "cpu", "triton")

# Process-wide on purpose: autograd runs backward passes in threads of its own, and torch.compile guards on a global.
_overrides: list[tuple[str, object]] = []


def _validated(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}={name!r} is not a backend; choose one of {', '.join(BACKENDS)}")
    return name


_environment = _validated(os.environ.get("VISIONSSM_BACKEND", "auto") or "auto", "VISIONSSM_BACKEND")
_has_triton = importlib.util.find_spec("triton") is not None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operator inside the block on one backend, whatever the device and VISIONSSM_BACKEND say.

    Args:
        name: `auto` (chosen by device), `reference`, `export` (the definition with loops that exporters know), `cpu` or
            `triton`.

    Raises:
        ValueError: `name` is none of these.

    Examples:
        >>> import torch, visionssm
        >>> a, b = torch.rand(5, 3), torch.rand(5, 3)
        >>> fast = visionssm.linear_recurrence(a, b, dim=0)
        >>> with visionssm.use_backend("reference"):
        ...     defined = visionssm.linear_recurrence(a, b, dim=0)
        >>> torch.testing.assert_close(fast, defined)
    """
    entry = (_validated(name, "backend"), object())
    _overrides.append(entry)
    try:
        yield
    finally:
        _overrides.remove(entry)  # not `pop`: another thread may have entered a block since


def _chosen() -> str:
    override = _overrides[-1][0] if _overrides else "auto"
    return override if override != "auto" else _environment


def reference_requested() -> bool:
    """Whether the user chose the definition; for operators whose fast form is plain PyTorch too, on any device."""
    return _chosen() == "reference"


def export_requested() -> bool:
    """Whether the user chose the form with loops that exporters know, for runtimes of core operators alone."""
    return _chosen() == "export"


def select_backend(x: Tensor) -> str:
    """Backend for operators on `x`: the override, else Triton for CUDA/ROCm, compiled for CPU, else reference.

    float64 always takes the reference: the compiled kernels compute in float32. So do forward-mode derivatives, which
    the kernels do not have. ONNX export takes the exportable form.
    """
    chosen = _chosen()
    if chosen in ("cpu", "triton") and forward_mode():
        raise ValueError(
            f"backend={chosen!r} has no forward-mode derivatives; the definition has them: use_backend('reference')"
        )
    if torch.jit.is_tracing() and x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("torch.jit.trace cannot record the derivatives of this operator: trace in torch.no_grad()")
    if chosen != "auto":
        return chosen
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():  # the second question takes microseconds
        return "export"
    if x.dtype == torch.float64 or forward_mode():
        return "reference"
    if x.device.type in ("cpu", "meta"):  # on meta tensors only shapes are computed, by the operator's fake kernel
        return "cpu"
    if x.device.type == "cuda" and _has_triton:
        return "triton"
    return "reference"


def runs_compiled(x: Tensor, *others: Tensor | None) -> bool:
    """Whether a compiled pass may run of which no tracer, mode, profiler or transform knows: in float32 on a CPU."""
    return (
        all(y is None or (y.dtype == torch.float32 and y.is_cpu) for y in (x, *others))
        and not modes_see_functions()
        and not recorded((x, *others))
        and not torch.autograd._profiler_enabled()
        and not transformed()
        and not torch.is_autocast_enabled("cpu")
        and select_backend(x) == "cpu"
    )


def implementation(x: Tensor, package: str | None) -> ModuleType:
    """The module with the compiled kernels of an operator for `x`: `gpu` (Triton) or `cpu` of its package.

    Args:
        x: an input of the operator.
        package: of the operator, `visionssm.kernels.…`.

    Raises:
        ValueError: the backend that was asked for cannot read the memory that holds `x`.
    """
    chosen, device = select_backend(x), x.device.type
    if chosen == "cpu" and device not in ("cpu", "meta"):
        raise ValueError(f"backend='cpu' computes on tensors in main memory, not on {x.device}: move them with .cpu()")
    on_gpu = chosen == "triton" or device == "cuda"  # backward passes may run outside the block that chose another one
    name = f"{package}.{'gpu' if on_gpu else 'cpu'}"
    return sys.modules.get(name) or importlib.import_module(name)  # the import system takes longer to find it
