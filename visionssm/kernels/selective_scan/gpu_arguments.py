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
    """Steps × channels that a program holds at once, its warps, and the registers that a thread of them may take."""

    steps: int
    channels: int
    num_warps: int
    maxnreg: int | None = None


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


def ceil_div(x: int, by: int) -> int:
    """As `triton.cdiv`, which takes microseconds."""
    return -(-x // by)


def next_power_of_two(x: int) -> int:
    """The smallest power of two that is at least x, x ≥ 1."""
    return 1 << (x - 1).bit_length()


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


def follow(scan: Scan) -> bool:
    """Whether dt, b and c are slices of one projection, which the kernels then read and differentiate as one tensor."""
    tensors = (scan.dt, scan.b, scan.c)
    if scan.dt_weight is None or scan.rank == 0 or len({(x.dtype, x.stride()) for x in tensors}) > 1:
        return False
    if len({x.untyped_storage().data_ptr() for x in tensors}) > 1:
        return False
    starts = [scan.dt.storage_offset() + offset for offset in (0, scan.rank, scan.rank + scan.d_state)]
    return [x.storage_offset() for x in tensors] == starts


def following(arguments: Arguments, scan: Scan) -> Arguments:
    """Arguments of a kernel that finds b and c behind dt."""
    absent = ("b", "c", "grad_b", "grad_c", *(f"{x}_{stride}" for x in "bc" for stride in ("batch", "route", "pixel")))
    projected = scan.dt.as_strided((*scan.dt.shape[:-1], scan.rank + 2 * scan.d_state), scan.dt.stride())
    return {**{name: None if name in absent else x for name, x in arguments.items()}, "dt": projected}


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


def precision() -> str:
    """How tensor cores multiply float32 numbers: three products of tf32 parts, or exact ones in the interpreter."""
    return "ieee" if triton.knobs.runtime.interpret else "tf32x3"


def rank_padded(scan: Scan) -> int:
    """Ranks of a tile of low-rank steps: tensor cores take powers of two from 16 on."""
    return max(16, next_power_of_two(max(scan.rank, 1)))


def launch_of(kernel: Any, tile: Tile, arguments: Arguments, only_here: dict[str, int], scan: Scan) -> KernelLaunch:
    """One program for every batch element, route, sequence, part and channel block."""
    blocks = ceil_div(scan.route_channels, tile.channels)
    # Offsets inside one batch element are int32 if they reach all of every map and of every gradient.
    strides = (stride for name, stride in arguments.items() if name.endswith("_pixel") and isinstance(stride, int))
    widest = max(scan.channels, scan.n_routes * (scan.dt.shape[-1] + 2 * scan.d_state), *strides)
    constants = {
        "MAP_CHANNELS": scan.channels,
        "K": scan.n_routes,
        "D": scan.route_channels,
        "N": scan.d_state,
        "RANK": scan.rank,
        "STEPS": tile.steps,
        "CHANNELS": tile.channels,
        "CHANNEL_BLOCKS": blocks,
        "N_PADDED": next_power_of_two(scan.d_state),
        "RANK_PADDED": rank_padded(scan),
        "PRECISION": precision(),
        "OFFSET": tl.int32 if scan.pixels * widest < 2**31 else tl.int64,
        **only_here,
    }
    n_parts = arguments["n_parts"]
    assert isinstance(n_parts, int)
    programs = scan.batch * scan.n_routes * scan.n_sequences * n_parts * blocks
    return KernelLaunch(
        kernel,
        (programs,),
        arguments,
        constants,
        tile.num_warps,
        maxnreg=tile.maxnreg,
        amd_constants={"PRECISION": "ieee"},
    )
