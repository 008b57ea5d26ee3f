"""What the Triton selective scan passes to its kernels: inputs as they read them, strides, sizes, launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import packed, with_unit_stride
from visionssm.kernels.selective_scan.scan import Scan

Arguments = dict[str, Tensor | int | None]


@dataclass(frozen=True)
class Tile:
    """Steps × channels that a program holds at once, and its warps."""

    steps: int
    channels: int
    num_warps: int


@dataclass(frozen=True)
class Parts:
    """How a sequence is shared out: `count` parts of `steps` steps, a multiple of both passes' chunks."""

    count: int
    steps: int


@dataclass(frozen=True)
class Carried:
    """What enters each part of every sequence, (B·K·S, parts, N, Dk); what leaves the last one, (B, K, S, Dk, N)."""

    enters: Tensor
    leaves: Tensor
    launches: tuple[KernelLaunch, KernelLaunch]  # that fill both, before the main launch

    def run(self) -> None:
        """Launch."""
        for launch in self.launches:
            launch.run()


def zeros(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.new_zeros(x.shape, dtype=torch.float32)


def as_kernels_read(scan: Scan) -> Scan:
    """Maps as they are, if channels are contiguous; parameters small and float32. Costs nothing the second time."""
    return Scan(
        u=with_unit_stride(scan.u),
        dt=with_unit_stride(scan.dt),
        dt_weight=packed(scan.dt_weight),
        a=scan.a.float().mT.contiguous().mT,  # channels are neighbours in memory as in the tiles
        b=with_unit_stride(scan.b),
        c=with_unit_stride(scan.c),
        skip=packed(scan.skip),
        dt_bias=packed(scan.dt_bias),
        order=scan.order.to(torch.int32).contiguous(),
        initial_state=None if scan.initial_state is None else scan.initial_state.contiguous(),
    )


def kernel_inputs(scan: Scan) -> tuple[dict[str, Tensor | None], dict[str, int]]:
    """Tensors of `as_kernels_read` and their strides, by the names of the kernels' arguments."""
    strides = {"u_batch": scan.u.stride(0), "u_pixel": scan.u.stride(1)}
    for name, x in (("dt", scan.dt), ("b", scan.b), ("c", scan.c)):  # (B, L, K, ·)
        batch, pixel, route, _ = x.stride()
        strides |= {f"{name}_batch": batch, f"{name}_route": route, f"{name}_pixel": pixel}
    return {**scan._asdict(), "a": scan.a.mT}, strides  # a: (K, N, Dk)


def map_strides(y: Tensor, scan: Scan) -> dict[str, int]:
    """Strides of y or its gradient between batch elements, routes and pixels.

    In a merged map (B, L, D) the next route's channels are the same ones, or the next group's.
    """
    if y.ndim == 4:  # (B, K, L, Dk)
        batch, route, pixel, _ = y.stride()
        return {"y_batch": batch, "y_route": route, "y_pixel": pixel}
    route = 0 if scan.route_channels == y.shape[2] else scan.route_channels
    return {"y_batch": y.stride(0), "y_route": route, "y_pixel": y.stride(1)}


def sizes(scan: Scan, parts: Parts) -> dict[str, int]:
    return {
        "n_pixels": scan.pixels,
        "n_sequences": scan.n_sequences,
        "n_steps": scan.n_steps,
        "n_parts": parts.count,
        "part_steps": parts.steps,
    }


def launch_of(kernel: Any, tile: Tile, arguments: Arguments, only_here: dict[str, int], scan: Scan) -> KernelLaunch:
    """One program for every batch element, route, sequence, part and channel block."""
    blocks = triton.cdiv(scan.route_channels, tile.channels)
    # Offsets inside one batch element are int32 if they reach all of every map and of every gradient.
    strides = (stride for name, stride in arguments.items() if name.endswith("_pixel") and isinstance(stride, int))
    widest = max(scan.channels, scan.n_routes * max(scan.d_state, scan.dt.shape[-1]), *strides)
    constants = {
        "MAP_CHANNELS": scan.channels,
        "K": scan.n_routes,
        "D": scan.route_channels,
        "N": scan.d_state,
        "RANK": scan.rank,
        "STEPS": tile.steps,
        "CHANNELS": tile.channels,
        "CHANNEL_BLOCKS": blocks,
        "N_PADDED": triton.next_power_of_2(scan.d_state),
        "OFFSET": tl.int32 if scan.pixels * widest < 2**31 else tl.int64,
        **only_here,
    }
    n_parts = arguments["n_parts"]
    assert isinstance(n_parts, int)
    programs = scan.batch * scan.n_routes * scan.n_sequences * n_parts * blocks
    return KernelLaunch(kernel, (programs,), arguments, constants, tile.num_warps)
