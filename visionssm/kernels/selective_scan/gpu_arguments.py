"""What the Triton selective scan passes to its kernels: inputs as they read them, strides, sizes, launches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.layout import packed, with_unit_stride
from visionssm.kernels.selective_scan.scan import Scan

Arguments = dict[str, Tensor | int | None]
_ON_AMD = {"PRECISION": "ieee"}


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


def zeros_of_each(*tensors: Tensor | None) -> list[Tensor | None]:
    """`zeros` of small tensors, cleared in one go."""
    sizes = [0 if x is None else x.numel() for x in tensors]
    given = next(x for x in tensors if x is not None)
    parts = given.new_zeros(sum(sizes), dtype=torch.float32).split(sizes)
    return [None if x is None else part.view(x.shape) for x, part in zip(tensors, parts, strict=True)]


def as_kernels_read(scan: Scan) -> Scan:
    """Maps as they are, if channels are contiguous; parameters small and float32. Costs little the second time."""
    a = scan.a
    if a.dtype != torch.float32 or not a.mT.is_contiguous():
        a = a.float().mT.contiguous().mT  # channels are neighbours in memory as in the tiles
    order = scan.order
    if order.dtype != torch.int32 or not order.is_contiguous():
        order = order.to(torch.int32).contiguous()
    return Scan(
        with_unit_stride(scan.u),
        with_unit_stride(scan.dt),
        _small(scan.dt_weight),
        a,
        with_unit_stride(scan.b),
        with_unit_stride(scan.c),
        _small(scan.skip),
        _small(scan.dt_bias),
        order,
        None if scan.initial_state is None else scan.initial_state.contiguous(),
    )


def _small(x: Tensor | None) -> Tensor | None:
    return x if x is None or (x.dtype == torch.float32 and x.is_contiguous()) else packed(x)


@dataclass(frozen=True)
class Plan:
    """What launches take of a scan apart from tensors. It depends on shapes, strides and dtypes alone.

    `numbers`: strides and sizes by the names of the kernels' arguments. `constants`: known when a kernel is compiled.
    `follows`: whether b and c follow dt in memory, as slices of one projection, which is then read and differentiated
    as one tensor. `frames`: names of arguments, constants and grids of launches, filled as they are made.
    """

    numbers: dict[str, int | None]
    constants: dict[str, Any]
    rows: int
    follows: bool
    frames: dict[tuple[Any, ...], tuple[list[str], dict[str, Any], tuple[int]]] = field(default_factory=dict)


_PLANS: dict[tuple[Any, ...], Plan] = {}
_MOST_PLANS = 4096  # of a few kilobytes: maps of any size may come


def plan_of(scan: Scan, y: Tensor) -> Plan:
    """The plan of a scan as kernels read it, with its map or the map's gradient; made once for each signature.

    Models call the scan dozens of times per image, and arithmetic on sizes takes Python longer than small scans take.
    """
    follows = follow(scan)
    signature = [None if x is None else (x.shape, x.stride(), x.dtype) for x in scan]
    key = (*signature, y.shape, y.stride(), follows)
    plan = _PLANS.get(key)
    if plan is None:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.clear()
        plan = _PLANS[key] = _new_plan(scan, y, follows)
    return plan


def _new_plan(scan: Scan, y: Tensor, follows: bool) -> Plan:
    strides = {"u_batch": scan.u.stride(0), "u_pixel": scan.u.stride(1)}
    for name, x in (("dt", scan.dt), ("b", scan.b), ("c", scan.c)):  # (B, L, K, ·)
        batch, pixel, route, _ = x.stride()
        strides |= {f"{name}_batch": batch, f"{name}_route": route, f"{name}_pixel": pixel}
    strides |= map_strides(y, scan)
    # Offsets inside one batch element are int32 if they reach all of every map and of every gradient.
    pixel_strides = (stride for name, stride in strides.items() if name.endswith("_pixel"))
    widest = max(scan.channels, scan.n_routes * (scan.dt.shape[-1] + 2 * scan.d_state), *pixel_strides)
    constants = {
        "MAP_CHANNELS": scan.channels,
        "K": scan.n_routes,
        "D": scan.route_channels,
        "N": scan.d_state,
        "RANK": scan.rank,
        "N_PADDED": next_power_of_two(scan.d_state),
        "RANK_PADDED": rank_padded(scan),
        "OFFSET": tl.int32 if scan.pixels * widest < 2**31 else tl.int64,
    }
    sizes = {"n_pixels": scan.pixels, "n_sequences": scan.n_sequences, "n_steps": scan.n_steps}
    absent = {name for name in strides if follows and name.startswith(("b_", "c_"))}
    numbers = {name: None if name in absent else x for name, x in {**strides, **sizes}.items()}
    return Plan(numbers, constants, scan.batch * scan.n_routes * scan.n_sequences, follows)


def follow(scan: Scan) -> bool:
    """Whether dt, b and c are slices of one projection."""
    dt, b, c = scan.dt, scan.b, scan.c
    rank, item, start = scan.rank, dt.itemsize, dt.data_ptr()
    if rank == 0 or b.data_ptr() - start != rank * item or c.data_ptr() - start != (rank + scan.d_state) * item:
        return False
    if not (dt.dtype == b.dtype == c.dtype and dt.stride() == b.stride() == c.stride()):
        return False
    return len({x.untyped_storage().data_ptr() for x in (dt, b, c)}) == 1


def tensors_of(scan: Scan, plan: Plan) -> dict[str, Tensor | None]:
    """The tensors of a scan by the names of the kernels' arguments."""
    tensors: dict[str, Tensor | None] = {**scan._asdict(), "a": scan.a.mT}  # a: (K, N, Dk)
    if plan.follows:
        width = scan.rank + 2 * scan.d_state
        tensors["dt"] = scan.dt.as_strided((*scan.dt.shape[:-1], width), scan.dt.stride())
        tensors["b"] = tensors["c"] = None
    return tensors


def map_strides(y: Tensor, scan: Scan) -> dict[str, int]:
    """Strides of y or its gradient between batch elements, routes and pixels.

    In a merged map (B, L, D) the next route's channels are the same ones, or the next group's.
    """
    if y.ndim == 4:  # (B, K, L, Dk)
        batch, route, pixel, _ = y.stride()
        return {"y_batch": batch, "y_route": route, "y_pixel": pixel}
    route = 0 if scan.route_channels == y.shape[2] else scan.route_channels
    return {"y_batch": y.stride(0), "y_route": route, "y_pixel": y.stride(1)}


def precision() -> str:
    """How tensor cores multiply float32 numbers: three products of tf32 parts, or exact ones in the interpreter."""
    return "ieee" if triton.knobs.runtime.interpret else "tf32x3"


def rank_padded(scan: Scan) -> int:
    """Ranks of a tile of low-rank steps: tensor cores take powers of two from 16 on."""
    return max(16, next_power_of_two(max(scan.rank, 1)))


def launch_of(
    kernel: Any, tile: Tile, tensors: dict[str, Tensor | None], plan: Plan, parts: Parts, saved_apart: int
) -> KernelLaunch:
    """One program for every batch element, route, sequence, part and channel block."""
    key = (kernel, tile, parts, saved_apart, triton.knobs.runtime.interpret)
    frame = plan.frames.get(key)
    if frame is None:
        blocks = ceil_div(plan.constants["D"], tile.channels)
        only_here = {
            "STEPS": tile.steps,
            "CHANNELS": tile.channels,
            "CHANNEL_BLOCKS": blocks,
            "SAVED_APART": saved_apart,
            "PRECISION": precision(),
        }
        known = {name: x for name, x in {**plan.constants, **only_here}.items() if name in kernel.arg_names}
        names = [name for name in kernel.arg_names if name not in known]
        frame = plan.frames[key] = names, known, (plan.rows * parts.count * blocks,)
    names, constants, grid = frame
    given = {**tensors, **plan.numbers, "n_parts": parts.count, "part_steps": parts.steps}
    return KernelLaunch(
        kernel,
        grid,
        {name: given[name] for name in names},
        constants,
        tile.num_warps,
        maxnreg=tile.maxnreg,
        amd_constants=_ON_AMD,
    )
