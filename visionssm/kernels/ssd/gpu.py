"""Triton backend of state-space duality: tables of decays, tiles and launches of `gpu_kernels`.

A chunk's states, then the states between chunks, then the outputs: every chunk of every head is a program of its own,
so small batches fill a GPU too. Gradients of b and c are float32 atomic sums over the heads of a group: where heads
share them, the order of additions, hence the last bits, vary from run to run. Where PyTorch is told to be
deterministic, every head has gradients of its own, which are summed in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import packed, with_unit_stride
from visionssm.kernels.ssd import gpu_kernels

WIDEST_BLOCK = 32  # states or channels of a tile: NVIDIA holds its factors in registers too
STATE_BLOCK = 512  # numbers of a state that one program passes from chunk to chunk
_COARSE = 64.0  # parts of one in the coarse part of a log decay
_LARGEST_LOG_DECAY = 1000.0  # exp(−1000) is 0; sums of such steps stay exact in the coarse part
Arguments = dict[str, Tensor | int | None]


@dataclass(frozen=True)
class Decays:
    """Tables of every chunk and head, float32 (B, chunks, H, Q); `whole`: (B, chunks, H)."""

    dt: Tensor  # steps, 0 past the end
    coarse: Tensor  # running sums of log decays, to multiples of 1/64
    fine: Tensor  # the rest of them
    since_start: Tensor  # decay from before the chunk to each step
    to_end: Tensor  # decay from each step to the last of the chunk
    whole: Tensor  # decay over the chunk


def chunk_steps(chunk_size: int, dtype: torch.dtype) -> int:
    """Steps of a chunk on a GPU: float32 numbers are held in parts, so that registers hold half as many."""
    return min(chunk_size, 32 if dtype == torch.float32 else 64)


def precision(dtype: torch.dtype) -> str:
    """How tensor cores multiply float32 numbers: each is split into bfloat16 parts, whose products are added.

    Six products reach float32's accuracy. Three have a relative error of 2⁻¹⁶, which is enough for half-precision
    inputs. Both exist on NVIDIA and AMD GPUs.
    """
    return "bf16x6" if dtype == torch.float32 else "bf16x3"


def states_shape(x: Tensor, b: Tensor, chunk_size: int) -> tuple[Any, ...]:
    """Shape of the states saved for the backward pass: one at the start of every chunk."""
    batch, steps, heads, width = x.shape
    size = chunk_steps(chunk_size, x.dtype)
    return (batch, (steps + size - 1) // size, heads, b.shape[-1], width)


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
    """y, the final state and the saved states (empty unless `save_states`); shapes as in `reference.py`."""
    y, final_state, states, steps = forward_launches(x, dt, log_decay, b, c, d, initial_state, chunk_size=chunk_size)
    for launch in steps.values():
        launch.run()
    return y, final_state, states if save_states else states.new_empty(0)


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
    """Gradients of x, dt, log_decay, b, c, d and initial_state; None where the input is None."""
    grads, decays, steps = backward_launches(
        grad_y, grad_final_state, x, dt, log_decay, b, c, d, initial_state, states, chunk_size=chunk_size
    )
    for launch in steps.values():
        launch.run()

    # The log decay of step k takes part in every pair s < k ≤ t: inside the chunk, from before it and to after it.
    inside = grads["grad_decay"] + grads["from_start"].sum(3)
    from_earlier = _running_sums(grads["from_end"] * decays.dt).roll(1, -1)
    from_earlier[..., 0] = 0
    whole = grads["carried"].sum(-1) * decays.whole
    grad_log = _running_sums(inside.flip(-1)).flip(-1) + from_earlier + whole[..., None]
    n_steps = x.shape[1]
    grad_log, grad_drive = (_in_steps(table, n_steps) for table in (grad_log, grads["grad_drive"]))
    results = (
        grads["grad_x"],
        grad_drive,
        grad_log,
        _over_heads(grads["grad_b"], b),
        _over_heads(grads["grad_c"], c),
        grads["grad_skip"].sum((0, 1)),
        grads["grad_initial"],
    )
    inputs = (x, dt, log_decay, b, c, d, initial_state)
    return tuple(None if given is None else g.to(given.dtype) for given, g in zip(inputs, results, strict=True))


def forward_launches(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    *,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, dict[str, KernelLaunch]]:
    """y, the final state and the states before each chunk, which the launches fill in their order; the launches."""
    batch, _, heads, width = x.shape
    decays = _decays(dt, log_decay, chunk_steps(chunk_size, x.dtype))
    x, b, c = (with_unit_stride(tensor) for tensor in (x, b, c))
    y = x.new_empty(x.shape)
    final_state = x.new_empty((batch, heads, width, b.shape[-1]), dtype=torch.float32)
    states = x.new_empty(states_shape(x, b, chunk_size), dtype=torch.float32)
    arguments: Arguments = {
        **{"x": x, "b": b, "c": c, "dt": decays.dt, "coarse": decays.coarse, "fine": decays.fine},
        **{"since_start": decays.since_start, "skip": packed(d), "states": states, "y": y},
        **_strides({"x": x, "b": b, "c": c}),
        **_sizes(x, states),
    }
    tiles = _tiles(x, b, chunk_size)
    steps = {
        "chunk_states": _states_launch(b, x, decays.to_end * decays.dt, states, tiles),
        "pass_states": _pass_launch(states, decays, initial_state, final_state, reverse=False),
        "chunk_outputs": _launch(
            gpu_kernels.ssd_chunk_outputs,
            states,
            triton.cdiv(width, tiles["BLOCK_P"]),
            arguments,
            _narrow(tiles, "BLOCK_N"),
        ),
    }
    return y, final_state, states, steps


def backward_launches(
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
) -> tuple[dict[str, Tensor], Decays, dict[str, KernelLaunch]]:
    """Float32 gradients and parts of them, by name, which the launches fill in their order; decays; launches."""
    batch, _, heads, width = x.shape
    d_state = b.shape[-1]
    decays = _decays(dt, log_decay, chunk_steps(chunk_size, x.dtype))
    grad_y, x, b, c = (with_unit_stride(tensor) for tensor in (grad_y, x, b, c))
    tiles = _tiles(x, b, chunk_size)
    narrow = _narrow(tiles, "BLOCK_N", "BLOCK_P")
    n_blocks = triton.cdiv(d_state, narrow["BLOCK_N"])
    n_chunks, size = decays.dt.shape[1], tiles["Q"]
    flows = torch.empty_like(states)
    summed = 1 if torch.are_deterministic_algorithms_enabled() else tiles["GROUP_HEADS"]
    grads = {
        "grad_x": x.new_empty(x.shape, dtype=torch.float32),
        "grad_b": b.new_zeros((batch, x.shape[1], heads // summed, d_state), dtype=torch.float32),
        "grad_c": b.new_zeros((batch, x.shape[1], heads // summed, d_state), dtype=torch.float32),
        "grad_decay": torch.empty_like(decays.dt),
        "grad_drive": torch.empty_like(decays.dt),
        "from_end": torch.empty_like(decays.dt),
        "from_start": states.new_empty(batch, n_chunks, heads, n_blocks, size),
        "carried": states.new_empty(batch, n_chunks, heads, n_blocks),
        "grad_skip": states.new_empty(batch, n_chunks, heads),
        "grad_initial": states.new_empty(batch, heads, width, d_state),
    }
    maps = {"grad_y": grad_y, "x": x, "b": b, "c": c}
    tables = {"dt": decays.dt, "coarse": decays.coarse, "fine": decays.fine}
    common: Arguments = {**_strides({"y": grad_y, "x": x, "b": b, "c": c}), **_sizes(x, states)}

    def results(*names: str) -> Arguments:
        return {name: grads[name] for name in names}

    inputs: Arguments = {
        **maps,
        **tables,
        **{"to_end": decays.to_end, "skip": packed(d), "flows": flows},
        **results("grad_x", "grad_decay", "grad_drive", "from_end", "grad_skip"),
        **common,
    }
    vectors: Arguments = {
        **maps,
        **tables,
        **{"since_start": decays.since_start, "to_end": decays.to_end, "states": states, "flows": flows},
        **results("grad_b", "grad_c", "from_start", "carried"),
        **common,
    }
    final = None if grad_final_state is None else grad_final_state.contiguous()
    of_vectors = {**narrow, "SUMMED_HEADS": summed}
    steps = {
        "chunk_flows": _states_launch(c, grad_y, decays.since_start, flows, _tiles(x, b, chunk_size)),
        "pass_flows": _pass_launch(flows, decays, final, grads["grad_initial"], reverse=True),
        "backward_inputs": _launch(gpu_kernels.ssd_backward_inputs, states, 1, inputs, narrow),
        "backward_vectors": _launch(gpu_kernels.ssd_backward_vectors, states, n_blocks, vectors, of_vectors),
    }
    return grads, decays, steps


def _over_heads(grad: Tensor, given: Tensor) -> Tensor:
    """A gradient for each group from one for each group or head."""
    return grad if grad.shape == given.shape else grad.unflatten(2, (given.shape[2], -1)).sum(3)


def _running_sums(x: Tensor) -> Tensor:
    """`x.cumsum(-1)`, which PyTorch refuses on GPUs where it is told to be deterministic."""
    if not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(-1)
    size = x.shape[-1]
    earlier = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    return torch.where(earlier, x[..., None, :], 0.0).sum(-1)


def _decays(dt: Tensor, log_decay: Tensor, size: int) -> Decays:
    n_chunks = triton.cdiv(dt.shape[1], size)
    missing = n_chunks * size - dt.shape[1]

    def in_chunks(table: Tensor) -> Tensor:
        """(B, L, H) to (B, chunks, H, Q)."""
        return F.pad(table, (0, 0, 0, missing)).unflatten(1, (n_chunks, size)).transpose(2, 3)

    log = log_decay.double().clamp(-_LARGEST_LOG_DECAY, _LARGEST_LOG_DECAY)
    sums = _running_sums(in_chunks(log))
    coarse = (sums * _COARSE).round() / _COARSE
    since_start = sums.float().exp()
    tables = (in_chunks(dt), coarse, sums - coarse, since_start, (sums[..., -1:] - sums).exp(), since_start[..., -1])
    return Decays(*(table.float().contiguous() for table in tables))


def _in_steps(table: Tensor, n_steps: int) -> Tensor:
    """(B, chunks, H, Q) to (B, L, H)."""
    return table.transpose(2, 3).flatten(1, 2)[:, :n_steps]


def _strides(maps: dict[str, Tensor]) -> dict[str, int]:
    """Strides of (B, L, H, ·) or (B, L, G, ·) between batch elements, steps and heads or groups."""
    strides: dict[str, int] = {}
    for name, tensor in maps.items():
        batch, step, head, _ = tensor.stride()
        last = "group" if name in "bc" else "head"
        strides |= {f"{name}_batch": batch, f"{name}_step": step, f"{name}_{last}": head}
    return strides


def _sizes(x: Tensor, states: Tensor) -> dict[str, int]:
    return {"n_steps": x.shape[1], "n_chunks": states.shape[1]}


def _tiles(x: Tensor, b: Tensor, chunk_size: int) -> dict[str, Any]:
    """Compile-time constants of the kernels with matrix products, which take at least 16 of everything."""
    return {
        "GROUP_HEADS": x.shape[2] // b.shape[2],
        "Q": chunk_steps(chunk_size, x.dtype),
        "BLOCK_N": min(WIDEST_BLOCK, max(16, triton.next_power_of_2(b.shape[-1]))),
        "BLOCK_P": min(WIDEST_BLOCK, max(16, triton.next_power_of_2(x.shape[-1]))),
        "PRECISION": precision(x.dtype),
    }


def _narrow(tiles: dict[str, Any], *blocks: str) -> dict[str, Any]:
    """`tiles` with the smallest blocks that a product takes, where float32 numbers are held in parts."""
    return tiles | dict.fromkeys(blocks, 16) if tiles["PRECISION"] == precision(torch.float32) else tiles


def _launch(kernel: Any, states: Tensor, blocks: int, arguments: Arguments, tiles: dict[str, Any]) -> KernelLaunch:
    """One program for every batch element, chunk, head and block."""
    batch, n_chunks, heads, d_state, width = states.shape
    constants = {"H": heads, "N": d_state, "P": width, **tiles}
    return KernelLaunch(kernel, (batch * n_chunks * heads * blocks,), arguments, constants, tiles["Q"] // 8)


def _states_launch(left: Tensor, right: Tensor, weight: Tensor, states: Tensor, tiles: dict[str, Any]) -> KernelLaunch:
    """states[n, p] = Σ_t left[t, n] weight[t] right[t, p] of every chunk."""
    arguments: Arguments = {
        **{"left": left, "right": right, "weight": weight, "states": states},
        **dict(zip(("left_batch", "left_step", "left_group"), left.stride(), strict=False)),
        **dict(zip(("right_batch", "right_step", "right_head"), right.stride(), strict=False)),
        **_sizes(right, states),
    }
    d_state, width = states.shape[3:]
    blocks = triton.cdiv(d_state, tiles["BLOCK_N"]) * triton.cdiv(width, tiles["BLOCK_P"])
    return _launch(gpu_kernels.ssd_chunk_states, states, blocks, arguments, tiles)


def _pass_launch(states: Tensor, decays: Decays, start: Tensor | None, end: Tensor, *, reverse: bool) -> KernelLaunch:
    """States between chunks, from what each chunk adds."""
    batch, n_chunks, heads, d_state, width = states.shape
    arguments: Arguments = {
        "states": states,
        "decay": decays.whole,
        "start": None if start is None else start.contiguous(),
        "end": end,
        "n_chunks": n_chunks,
    }
    constants = {"H": heads, "N": d_state, "P": width, "BLOCK": STATE_BLOCK, "REVERSE": reverse}
    grid = (batch * heads * triton.cdiv(d_state * width, STATE_BLOCK),)
    return KernelLaunch(gpu_kernels.ssd_pass_states, grid, arguments, constants, num_warps=4)


def launches(
    *,
    steps: int,
    heads: int,
    width: int,
    d_state: int,
    groups: int = 1,
    batch: int = 1,
    chunk_size: int = 64,
    dtype: torch.dtype = torch.float32,
    initial_state: bool = False,
) -> dict[str, KernelLaunch]:
    """The launches of a training step at a shape, on meta tensors: to be compiled, not run.

    Args:
        steps, heads, width, d_state, groups: L, H, P, N and G.
        batch: B.
        chunk_size: steps per chunk.
        dtype: of x, b and c; dt and parameters are float32.
        initial_state: whether the sequence starts from a given state.
    """

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x = meta(batch, steps, heads, width, dtype=dtype)
    b = meta(batch, steps, groups, d_state, dtype=dtype)
    state = meta(batch, heads, width, d_state) if initial_state else None
    inputs = (x, meta(batch, steps, heads), meta(batch, steps, heads), b, b, meta(heads), state)
    y, final_state, states, forward = forward_launches(*inputs, chunk_size=chunk_size)
    grad_final = final_state if initial_state else None
    _, _, backward = backward_launches(y, grad_final, *inputs, states, chunk_size=chunk_size)
    return {**forward, **backward}
