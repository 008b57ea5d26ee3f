"""Triton backend of the pairwise weights of `plstm2d`: allocates, chooses tiles and launches `gpu_kernels`.

Gradients of transitions and marks are float32 atomics into zeroed tensors: the order of additions, hence the last bits,
vary from run to run. Where PyTorch is told to be deterministic, each block of sources has gradients of its own, which
are summed in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.plstm2d import gpu_kernels

GATES = ("source_r", "source_d", "t_rl", "t_du", "mark_l", "mark_u", "t_ru", "t_dl")


@dataclass(frozen=True)
class Tile:
    """Columns × sources that a program holds at once, and its warps."""

    columns: int
    sources: int
    num_warps: int


# Sources and warps by columns, up to the longest row of a block; found by compiling for all targets: others spill.
_FORWARD = {2: (64, 1), 4: (64, 2), 8: (64, 2), 16: (32, 4), 32: (16, 4), 64: (16, 4)}
_BACKWARD = {2: (64, 1), 4: (64, 2), 8: (32, 1), 16: (16, 2), 32: (8, 4), 64: (2, 1)}


def forward_tile(n_columns: int) -> Tile:
    """A whole row, and as many sources as leave four or eight numbers of a tile to a thread."""
    columns = max(triton.next_power_of_2(n_columns), 2)
    return Tile(columns, *_FORWARD[columns])


def backward_tile(n_columns: int) -> Tile:
    """As `forward_tile`, with fewer sources: more tiles are live."""
    columns = max(triton.next_power_of_2(n_columns), 2)
    return Tile(columns, *_BACKWARD[columns])


def forward(gates: tuple[Tensor | None, ...], direct: Tensor | None) -> Tensor:
    """(B, C, C) weights of readers and sources from float32 gates (B, K, X, Y), in the order of `Gates`."""
    weights, launch = forward_launch(gates, direct)
    launch.run()
    return weights


def backward(grad_weights: Tensor, gates: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of the gates, in their order; None for a missing one."""
    grads, launch = backward_launch(grad_weights, gates)
    launch.run()
    return tuple(None if x is None else x.sum(0) if x.ndim == 5 else x for x in grads)


def forward_launch(gates: tuple[Tensor | None, ...], direct: Tensor | None) -> tuple[Tensor, KernelLaunch]:
    """Weights that the launch fills, and the launch; on meta tensors, only to be compiled."""
    first = gates[0]
    assert first is not None
    n_cells = first.shape[2] * first.shape[3]
    weights = first.new_empty(first.shape[0], n_cells, n_cells)
    tensors = {**_named(gates), "direct": None if direct is None else direct.contiguous(), "weights": weights}
    return weights, _launch(gpu_kernels.pairs_forward, tensors, first, forward_tile(first.shape[3]))


def backward_launch(
    grad_weights: Tensor, gates: tuple[Tensor | None, ...]
) -> tuple[tuple[Tensor | None, ...], KernelLaunch]:
    """Gradients that the launch fills, and the launch; with an axis of blocks in front where those are to be summed."""
    first = gates[0]
    assert first is not None
    apart = torch.are_deterministic_algorithms_enabled()
    tile = backward_tile(first.shape[3])
    blocks = triton.cdiv(first.shape[2] * first.shape[3], tile.sources)
    grads = tuple(None if x is None else x.new_zeros((blocks, *x.shape) if apart else x.shape) for x in gates)
    tensors = {
        **_named(gates),
        "grad_weights": grad_weights.contiguous(),
        **{f"grad_{name}": x for name, x in zip(GATES, grads, strict=True)},
        "entered": torch.empty_like(grad_weights, memory_format=torch.contiguous_format),
    }
    return grads, _launch(gpu_kernels.pairs_backward, tensors, first, tile, APART=apart)


def _named(gates: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.contiguous() for name, x in zip(GATES, gates, strict=True)}


def _launch(
    kernel: Any, tensors: dict[str, Tensor | None], gate: Tensor, tile: Tile, **constants_of_kernel: bool
) -> KernelLaunch:
    """One program for every batch element and block of sources."""
    batch, n_directions, rows, columns = gate.shape
    blocks = triton.cdiv(rows * columns, tile.sources)
    constants = {"K": n_directions, "BLOCKS": blocks, "COLUMNS": tile.columns, "SOURCES": tile.sources}
    constants |= constants_of_kernel
    arguments = {**tensors, "n_rows": rows, "n_columns": columns}
    return KernelLaunch(kernel, (batch * blocks,), arguments, constants, tile.num_warps)


def launches(
    *, rows: int, columns: int, batch: int = 1, directions: int = 4, turns: tuple[bool, bool] = (True, True)
) -> dict[str, KernelLaunch]:
    """The forward and backward launch of a training step at a shape, on meta tensors: to be compiled, not run.

    Args:
        rows, columns: X and Y.
        batch: B, heads folded into it.
        directions: 1 or 4.
        turns: whether the gates have T_ru, and T_dl; (True, True) is the P-mode and (True, False) the D-mode.
    """
    gate = torch.empty((batch, directions, rows, columns), dtype=torch.float32, device="meta")
    gates = (*[gate] * 6, *(gate if turn else None for turn in turns))
    weights, forward_ = forward_launch(gates, torch.empty((batch, rows, columns), dtype=torch.float32, device="meta"))
    _, backward_ = backward_launch(weights, gates)
    return {"forward": forward_, "backward": backward_}
