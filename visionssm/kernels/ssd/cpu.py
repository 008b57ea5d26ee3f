"""State-space duality on CPUs: memory and threads for the compiled passes of `cpu_kernels`.

The kernels compute in float32. Half-precision inputs are converted, and results converted back to the input's dtype.

On one core (AVX-512) the recurrence is faster than the form in matrix products (the best of chunks of 32 or 64 steps,
4 or 16 of them at a time, in torch.matmul): forward and a whole training step are 3.6 and 2.1 times as fast at
B·L, H, P, N = 3136, 3, 64, 64; 5.8 and 4.2 times at 4·3136, 4, 64, 16; 2.6 and 1.3 times at 2·1024, 8, 64, 128.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.layout import addresses, packed, placed, rows
from visionssm.kernels.ssd.cpu_kernels import ssd_backward, ssd_forward


def states_shape(x: Tensor, b: Tensor, chunk_size: int) -> tuple[Any, ...]:
    """Shape of the states saved for the backward pass: one at the start of every chunk."""
    batch, steps, heads, width = x.shape
    return (batch, (steps + chunk_size - 1) // chunk_size, heads, b.shape[-1], width)


def forward(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    *,
    chunk_size: int,
    save_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state and (if `save_states`, else empty) the states that `backward` starts from.

    Shapes are those of `visionssm.kernels.ssd`; `dt` are the steps after bias and softplus.
    """
    batch, steps, heads, width = x.shape
    d_state = b.shape[-1]
    kept = _kept(x, dt, log_decay, b, c)
    skip, initial = packed(d), packed(initial_state)
    new = kept["decay"].new_empty  # float32
    y = new(batch, steps, heads, width)
    final = new(batch, heads, width, d_state)
    states = new(states_shape(x, b, chunk_size) if save_states else (0,))
    threads.run_kernel(
        ssd_forward,
        batch * heads,
        **_inputs(kept, chunk_size),
        **addresses(skip=skip, initial=initial, y=y, final=final, states=states),
    )
    return y.to(x.dtype), final, states


def backward(
    grad_y: Tensor,
    grad_final_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    *,
    chunk_size: int,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, log_decay, b, c, d and initial_state; None for an input that is None."""
    inputs = (x, dt, log_decay, b, c, d, initial_state)
    batch, steps, heads, width = x.shape
    groups, d_state = b.shape[2:]
    kept = _kept(x, dt, log_decay, b, c)
    grad_y, skip, grad_final, states = rows(grad_y), packed(d), packed(grad_final_state), states.contiguous()
    float32 = kept["decay"]
    # The kernel writes nothing where there are no states.
    new = float32.new_zeros if width * d_state == 0 else float32.new_empty
    grad_x = new(batch, steps, heads, width)
    grad_b, grad_c = new(2, batch, steps, heads, d_state)
    grad_decay, grad_drive, grad_skip = new(3, batch, steps, heads)
    grad_initial = new(batch, heads, width, d_state)
    threads.run_kernel(
        ssd_backward,
        batch * heads,
        **_inputs(kept, chunk_size),
        **placed("g_y", grad_y, "batch", "step", "head"),
        **addresses(skip=skip, states=states, g_final=grad_final, grad_x=grad_x, grad_b=grad_b, grad_c=grad_c),
        **addresses(grad_decay=grad_decay, grad_drive=grad_drive, grad_skip=grad_skip, grad_initial=grad_initial),
    )
    results = (
        grad_x,
        grad_drive,
        grad_decay,
        grad_b.unflatten(2, (groups, heads // groups)).sum(3),
        grad_c.unflatten(2, (groups, heads // groups)).sum(3),
        grad_skip.sum((0, 1)),
        grad_initial,
    )
    return tuple(None if given is None else g.to(given.dtype) for given, g in zip(inputs, results, strict=True))


def _kept(x: Tensor, dt: Tensor, log_decay: Tensor, b: Tensor, c: Tensor) -> dict[str, Tensor]:
    """What both kernels read, in float32: maps, packed steps, and the decay of each step and head."""
    dt, decay = packed(dt.detach()), log_decay.detach().float().contiguous().exp()
    return {"x": rows(x), "b": rows(b), "c": rows(c), "dt": dt, "decay": decay}


def _inputs(kept: dict[str, Tensor], chunk_size: int) -> dict[str, int]:
    """`kept`, and the sizes, by the names of the kernels' arguments."""
    _, steps, heads, width = kept["x"].shape
    groups, d_state = kept["b"].shape[2:]
    return {
        "n_steps": steps,
        "n_heads": heads,
        "group_heads": heads // groups,
        "width": width,
        "d_state": d_state,
        "chunk": chunk_size,
        **placed("x", kept["x"], "batch", "step", "head"),
        **placed("b", kept["b"], "batch", "step", "group"),
        **placed("c", kept["c"], "batch", "step", "group"),
        **addresses(dt=kept["dt"], decay=kept["decay"]),
    }
