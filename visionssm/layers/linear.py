"""Linear layers and MLPs of channels-last maps, faster on CPUs where no gradient is asked for.

PyTorch has two libraries of matrix products for float32 on x86 processors. `F.linear` calls MKL's, after it has written
the bias once for every row; oneDNN's takes 0.85 to 0.95 of the time on the shapes of vision models, and adds the bias
and applies a GELU before a result is written, so that a hidden map is written once and not three times. A call of
oneDNN's costs some 15 µs more, so small products stay with `F.linear`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp as TimmMlp
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from visionssm.kernels.transforms import traced, transformed

LEAST = 8_000_000  # multiply-adds, a fifth of a millisecond on a core


def plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of this kind and nobody looks on or stands in for it (hooks, LoRA, a replaced forward).

    Compilers, which look into modules, are told no.
    """
    if torch.compiler.is_compiling() or type(module) is not kind:
        return False
    return not (
        module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__ or _has_any_global_hook()
    )


@functools.cache
def _product() -> Any:
    """oneDNN's matrix product with what may follow it; None where this PyTorch or processor has none."""
    x86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if not x86 or not torch.backends.mkldnn.is_available():
        return None
    return torch.ops.mkldnn._linear_pointwise.default


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN should compute x·weightᵀ + bias: large, on an x86 CPU, float32, no gradients, seen by nobody."""
    if type(x) is not Tensor or torch.is_grad_enabled():
        return False  # of another type are the symbols of a graph's tracer
    operands = (x, weight) if bias is None else (x, weight, bias)
    return (
        not traced(operands)
        and x.numel() * weight.shape[0] >= LEAST
        and all(y.is_cpu and y.dtype == torch.float32 and y.is_contiguous() for y in operands)
        and x.ndim > 1
        and x.shape[-1] == weight.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
        and bool(torch.backends.mkldnn.enabled)
        and _product() is not None
    )


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (…, C_in) to (…, C_out), with weights (C_out, C_in)."""
    if by_onednn(x, weight, bias):
        y: Tensor = _product()(x, weight, bias, "none", (), "")
        return y
    return F.linear(x, weight, bias)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """What `layer`, an `nn.Linear` or what stands in for one, gives for `x`, (…, C_in) to (…, C_out)."""
    if plain(layer, nn.Linear) and by_onednn(x, layer.weight, layer.bias):  # type: ignore[arg-type]
        y: Tensor = _product()(x, layer.weight, layer.bias, "none", (), "")
        return y
    return layer(x)  # type: ignore[no-any-return]


class Mlp(TimmMlp):
    """timm's MLP: linear, GELU, linear. State keys and behaviour are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to the same shape."""
        if not (self._only_gelu_between() and by_onednn(x, self.fc1.weight, self.fc1.bias)):
            return super().forward(x)  # type: ignore[no-any-return]
        hidden = _product()(x, self.fc1.weight, self.fc1.bias, "gelu", (), "none")
        return self.drop2(linear(self.fc2, hidden))  # type: ignore[no-any-return]

    def _only_gelu_between(self) -> bool:
        """Whether the hidden map is the GELU of the first layer, and nobody looks at what is between."""
        return (
            plain(self.fc1, nn.Linear)
            and plain(self.act, nn.GELU)
            and self.act.approximate == "none"
            and plain(self.drop1, nn.Dropout)
            and not (self.training and self.drop1.p)
            and plain(self.norm, nn.Identity)
        )
