"""TTT-Linear on CPUs: memory and threads for the compiled passes of `cpu_kernels`.

The kernels compute in float32. Half-precision inputs are converted, and results converted back to the input's dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.layout import addresses, packed, placed, rows
from visionssm.kernels.ttt_linear.cpu_kernels import KEPT, ttt_backward, ttt_forward

SEQUENCES = ("q", "k", "v")
PACKED = ("eta", "scale", "weight", "bias", "norm_weight", "norm_bias")


def models_shape(q: Tensor, token_scale: Tensor) -> tuple[Any, ...]:
    """Shape of the models saved for the backward pass, W above b: one at the start of every few mini-batches."""
    batch, steps, heads, width = q.shape
    tokens = token_scale.shape[0] * KEPT
    return (batch, (steps + tokens - 1) // tokens, heads, width + 1, width)


def forward(*inputs: Tensor, eps: float, save_models: bool) -> tuple[Tensor, Tensor]:
    """y and (if `save_models`, else empty) the models that `backward` starts from; inputs as in `reference.py`."""
    q, _, _, _, token_scale = inputs[:5]
    kept = _kept(inputs)
    y = kept["eta"].new_empty(q.shape)
    models = y.new_empty(models_shape(q, token_scale) if save_models else (0,))
    threads.run_kernel(
        ttt_forward,
        q.shape[0] * q.shape[2],
        **_sizes(q, token_scale),
        **_placed(kept),
        **addresses(eps=(small := y.new_full((1,), eps)), y=y, models=models, **{name: kept[name] for name in PACKED}),
    )
    del small
    return y.to(q.dtype), models


def backward(grad_y: Tensor, *inputs: Tensor, models: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Gradients of the nine inputs."""
    q, _, _, _, token_scale = inputs[:5]
    batch, _, heads, width = q.shape
    kept, grad_y, models = _kept(inputs), rows(grad_y), models.contiguous()
    new, eta = kept["eta"].new_empty, kept["eta"]
    found = {f"grad_{name}": new(q.shape) for name in SEQUENCES}
    found |= {"grad_eta": new(eta.shape), "grad_scale": new(batch, heads, token_scale.shape[0])}
    found |= {"grad_model": new(batch, heads, width + 1, width)}
    found |= {f"grad_norm_{name}": new(batch, heads, width) for name in ("weight", "bias")}
    small = new(1).fill_(eps)
    given = {name: kept[name] for name in PACKED if name not in ("weight", "bias")}
    threads.run_kernel(
        ttt_backward,
        batch * heads,
        **_sizes(q, token_scale),
        **_placed(kept),
        **placed("g_y", grad_y, "batch", "step", "head"),
        **addresses(eps=small, models=models, **given, **found),
    )
    of_model = found["grad_model"].sum(0)
    grads = (
        *(found[f"grad_{name}"] for name in ("q", "k", "v", "eta")),
        found["grad_scale"].sum((0, 1)),
        of_model[:, :width],
        of_model[:, width],
        found["grad_norm_weight"].sum(0),
        found["grad_norm_bias"].sum(0),
    )
    return tuple(grad.to(x.dtype, memory_format=torch.contiguous_format) for x, grad in zip(inputs, grads, strict=True))


def _kept(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What both kernels read, in float32."""
    sequences = {name: rows(x) for name, x in zip(SEQUENCES, inputs[:3], strict=True)}
    return sequences | {name: packed(x) for name, x in zip(PACKED, inputs[3:], strict=True)}


def _placed(kept: dict[str, Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in SEQUENCES:
        found |= placed(name, kept[name], "batch", "step", "head")
    return found


def _sizes(q: Tensor, token_scale: Tensor) -> dict[str, int]:
    _, steps, heads, width = q.shape
    return {"n_steps": steps, "n_heads": heads, "width": width, "mini_batch": token_scale.shape[0]}
