"""What the Triton selective scan passes to its kernels: inputs as they read them, strides, sizes, launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import with_unit_stride

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


def kernel_inputs(
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
) -> tuple[dict[str, Tensor | None], dict[str, int]]:
    """Inputs as the kernels read them: maps as they are, if channels are contiguous; parameters small and float32."""
    maps = {name: with_unit_stride(x) for name, x in {"u": u, "dt": dt, "b": b, "c": c}.items()}
    strides = {"u_batch": maps["u"].stride(0), "u_pixel": maps["u"].stride(1)}
    for name in ("dt", "b", "c"):  # (B, L, K, ·)
        batch, pixel, route, _ = maps[name].stride()
        strides |= {f"{name}_batch": batch, f"{name}_route": route, f"{name}_pixel": pixel}
    inputs: dict[str, Tensor | None] = {
        "u": maps["u"],
        "dt": maps["dt"],
        "dt_weight": None if dt_weight is None else dt_weight.float().contiguous(),
        "a": a.float().mT.contiguous(),  # (K, N, Dk): channels are neighbours in memory as in the tiles
        "b": maps["b"],
        "c": maps["c"],
        "skip": None if d is None else d.float().contiguous(),
        "dt_bias": None if dt_bias is None else dt_bias.float().contiguous(),
        "order": order.to(torch.int32).contiguous(),
        "initial_state": None if initial_state is None else initial_state.contiguous(),
    }
    return inputs, strides


def map_strides(y: Tensor, a: Tensor) -> dict[str, int]:
    """Strides of y or its gradient between batch elements, routes and pixels.

    In a merged map (B, L, D) the next route's channels are the same ones, or the next group's.
    """
    if y.ndim == 4:  # (B, K, L, Dk)
        batch, route, pixel, _ = y.stride()
        return {"y_batch": batch, "y_route": route, "y_pixel": pixel}
    route_channels = a.shape[1]
    route = 0 if route_channels == y.shape[2] else route_channels
    return {"y_batch": y.stride(0), "y_route": route, "y_pixel": y.stride(1)}


def sizes(u: Tensor, order: Tensor, parts: Parts) -> dict[str, int]:
    return {
        "n_pixels": u.shape[1],
        "n_sequences": order.shape[1],
        "n_steps": order.shape[2],
        "n_parts": parts.count,
        "part_steps": parts.steps,
    }


def launch_of(
    kernel: Any,
    tile: Tile,
    arguments: Arguments,
    only_here: dict[str, int],
    u: Tensor,
    dt: Tensor,
    dt_weight: Tensor | None,
    a: Tensor,
    order: Tensor,
) -> KernelLaunch:
    """One program for every batch element, route, sequence, part and channel block."""
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    blocks = triton.cdiv(route_channels, tile.channels)
    # Offsets inside one batch element are int32 if they reach all of every map and of every gradient.
    strides = (stride for name, stride in arguments.items() if name.endswith("_pixel") and isinstance(stride, int))
    widest = max(channels, n_routes * max(d_state, dt.shape[-1]), *strides)
    constants = {
        "MAP_CHANNELS": channels,
        "K": n_routes,
        "D": route_channels,
        "N": d_state,
        "RANK": 0 if dt_weight is None else dt_weight.shape[1],
        "STEPS": tile.steps,
        "CHANNELS": tile.channels,
        "CHANNEL_BLOCKS": blocks,
        "N_PADDED": triton.next_power_of_2(d_state),
        "OFFSET": tl.int32 if pixels * widest < 2**31 else tl.int64,
        **only_here,
    }
    n_parts = arguments["n_parts"]
    assert isinstance(n_parts, int)
    programs = batch * n_routes * order.shape[1] * n_parts * blocks
    return KernelLaunch(kernel, (programs,), arguments, constants, tile.num_warps)
