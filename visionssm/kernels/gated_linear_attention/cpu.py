"""Gated linear attention on CPUs: memory and threads for the compiled passes of `cpu_kernels`.

The kernels compute in float32. Half-precision inputs are converted, and results converted back to the input's dtype.

On one core (AVX-512) a training step of a sequence of 4096 steps with four heads of N = P = 16 takes a twentieth of the
time of the form in matrix products (`chunks.py`): decays that differ by key channel leave few products to be made.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.gated_linear_attention.cpu_kernels import CHUNK, gated_backward, gated_forward
from visionssm.kernels.layout import addresses, placed, rows

FLOAT = 4  # bytes


def states_shape(q: Tensor, v: Tensor) -> tuple[Any, ...]:
    """Shape of the states saved for the backward pass: one at the start of every chunk."""
    batch, steps, heads, d_state = q.shape
    return (batch, (steps + CHUNK - 1) // CHUNK, heads, d_state, v.shape[-1])


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, reverse: bool, save_states: bool
) -> tuple[Tensor, Tensor]:
    """y and (if `save_states`, else empty) the states that `backward` starts from; shapes as in `reference.py`."""
    batch, _, heads, _ = v.shape
    kept = _kept(q, k, v, log_decay)
    y = kept["decay"].new_empty(v.shape)
    states = y.new_empty(states_shape(q, v) if save_states else (0,))
    threads.run_kernel(
        gated_forward,
        batch * heads,
        **_sizes(q, v),
        **_visited({**kept, "y": y}, reverse),
        **addresses(states=states),
    )
    return y.to(q.dtype), states


def backward(
    grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, states: Tensor, *, reverse: bool
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v and log_decay."""
    batch, _, heads, width = v.shape
    kept, grad_y, states = _kept(q, k, v, log_decay), rows(grad_y), states.contiguous()
    # The kernel writes nothing where there are no states.
    new = kept["decay"].new_zeros if width * q.shape[-1] == 0 else kept["decay"].new_empty
    grad_q, grad_k, grad_decay, grad_v = new(q.shape), new(q.shape), new(q.shape), new(v.shape)
    visited = _visited({**kept, "g_y": grad_y, "grad_q": grad_q, "grad_v": grad_v}, reverse)
    shared = {axis: visited.pop(f"grad_q_{axis}") for axis in ("batch", "step", "head")}
    to_first = visited["grad_q"] - grad_q.data_ptr()  # gradients of one shape have one way through them
    threads.run_kernel(
        gated_backward,
        batch * heads,
        **_sizes(q, v),
        **visited,
        **{f"grad_{axis}": stride for axis, stride in shared.items()},
        grad_k=grad_k.data_ptr() + to_first,
        grad_decay=grad_decay.data_ptr() + to_first,
        **addresses(states=states),
    )
    results = zip((q, k, v, log_decay), (grad_q, grad_k, grad_v, grad_decay), strict=True)
    return tuple(grad.to(given.dtype) for given, grad in results)


def _kept(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> dict[str, Tensor]:
    """What both kernels read, in float32."""
    return {"q": rows(q), "k": rows(k), "v": rows(v), "decay": rows(log_decay.detach()).exp()}


def _sizes(q: Tensor, v: Tensor) -> dict[str, int]:
    _, steps, heads, d_state = q.shape
    return {"n_steps": steps, "n_heads": heads, "d_state": d_state, "width": v.shape[-1]}


def _visited(tensors: dict[str, Tensor], reverse: bool) -> dict[str, int]:
    """Addresses of the first step that is visited, and strides to the next, of tensors (B, L, H, ·)."""
    found: dict[str, int] = {}
    for name, x in tensors.items():
        found |= placed(name, x, "batch", "step", "head")
        if reverse:
            found[name] += (x.shape[1] - 1) * x.stride(1) * FLOAT
            found[f"{name}_step"] *= -1
    return found
