"""What the Triton selective scan passes to its kernels: inputs as they read them, strides, sizes, launches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionssm.kernels.aot import KernelLaunch
from visionssm.kernels.launch import Starter
from visionssm.kernels.layout import packed, with_unit_stride
from visionssm.kernels.selective_scan import gpu_sums
from visionssm.kernels.selective_scan.scan import Scan
from visionssm.kernels.tiles import Tile

Arguments = dict[str, Tensor | int | None]
_ON_AMD = {"PRECISION": "ieee"}


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
    launches: tuple[Launch, Launch]  # that fill both, before the main launch

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


@dataclass(frozen=True)
class Frame:
    """What launches of one kernel share, whose tensors agree in all but values: grid, numbers, constants, options."""

    data: KernelLaunch  # without tensors
    starter: Starter

    @classmethod
    def of(cls, first: KernelLaunch) -> Frame:
        """The frame of a launch, which keeps none of its tensors: they would keep whole graphs of autograd alive."""
        numbers = {name: None if isinstance(x, Tensor) else x for name, x in first.arguments.items()}
        return cls(replace(first, arguments=numbers), first.starter())


class Launch(NamedTuple):
    """A launch of a frame with tensors of its own, by the names of the kernel's arguments."""

    frame: Frame
    tensors: dict[str, Tensor | None]

    def run(self) -> None:
        """Launch."""
        self.frame.starter.run(self.frame.data.grid, self.tensors)

    def data(self) -> KernelLaunch:
        """All of it in one value, which can be compiled for GPUs that are not there."""
        first = self.frame.data.arguments
        return replace(self.frame.data, arguments={name: self.tensors.get(name, x) for name, x in first.items()})


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
class Room:
    """How several float32 tensors share memory, so that they are cleared, and converted, in one go.

    `places`: by name, shape, strides and first element; None for a tensor that there is not.
    """

    places: dict[str, tuple[Sequence[int], Sequence[int], int] | None]
    size: int

    @classmethod
    def of(cls, layouts: dict[str, tuple[Sequence[int], Sequence[int]] | None]) -> Room:
        """Room for tensors of these shapes and strides."""
        places: dict[str, tuple[Sequence[int], Sequence[int], int] | None] = {}
        size = 0
        for name, layout in layouts.items():
            places[name] = None if layout is None else (*layout, size)
            if layout is not None:
                size += -(-math.prod(layout[0]) // 64) * 64  # so that addresses stay multiples of 128 bytes at least
        return cls(places, size)

    def zeros(self, device: torch.device) -> Tensor:
        """The memory."""
        return torch.zeros(self.size, dtype=torch.float32, device=device)

    def tensors(self, memory: Tensor) -> dict[str, Tensor | None]:
        """The tensors in the memory."""
        return {name: None if p is None else memory.as_strided(*p) for name, p in self.places.items()}


@dataclass(frozen=True)
class Plan:
    """What launches take of a scan apart from tensors. It depends on shapes, strides, dtypes and the device alone.

    `direct`: whether kernels read the tensors as they are; else the plan has no more than that. `follows`: whether b
    and c follow dt in memory, as slices of one projection, which is then read and differentiated as one tensor.
    `numbers`: strides and sizes by the names of the kernels' arguments. `constants`: known when a kernel is compiled.
    `maps`, `parameters`: room for the gradients. `dtype_of_maps`: of all maps, None where they differ or are float32.
    What is below is filled when it is first needed.
    """

    direct: bool
    follows: bool
    numbers: dict[str, int | None] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    rows: int = 0  # B·K·S
    y_shape: tuple[int, ...] = ()
    state_shape: tuple[int, ...] = ()
    states_shape: tuple[int, ...] = ()
    widths: tuple[int, int, int] = (0, 0, 0)  # of dt, b and c in a projection
    maps: Room = field(default_factory=lambda: Room({}, 0))
    parameters: Room = field(default_factory=lambda: Room({}, 0))
    dtype_of_maps: torch.dtype | None = None
    parts: list[Parts] = field(default_factory=list)
    between: dict[int, tuple[int, ...] | None] = field(default_factory=dict)
    frames: dict[tuple[Any, ...], Frame] = field(default_factory=dict)


_PLANS: dict[tuple[Any, ...], Plan] = {}
_MOST_PLANS = 4096  # of a few kilobytes: maps of any size may come


def forget_plans() -> None:
    """Make all plans anew, because tiles are others now."""
    _PLANS.clear()


def plan_of(
    scan: Scan, y: Tensor | bool, saved_apart: Callable[[int], int], *, apart: bool = False
) -> tuple[Scan, Plan]:
    """A scan as the kernels read it, and its plan, made once for each signature.

    Models call the scan dozens of times per image, and arithmetic on sizes takes Python longer than small scans take.

    Args:
        scan: as it came.
        y: the gradient of its map, with neighbouring channels; or, for the forward pass, whether routes are merged.
        saved_apart: steps between saved states, by N.
        apart: whether nothing is added twice in one place, so that sums have an order (see `gpu_sums`).
    """
    follows = follow(scan)
    of_map = (y.shape, y.stride(), y.dtype) if isinstance(y, Tensor) else y
    signature = tuple([None if x is None else (x.shape, x.stride(), x.dtype) for x in scan])
    key = (signature, of_map, follows, scan.u.device, apart)
    plan = _PLANS.get(key)
    if plan is None:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.clear()
        read = as_kernels_read(scan)
        direct = all(x is y for x, y in zip(read, scan, strict=True))
        plan = _new_plan(scan, y, follows, saved_apart(scan.d_state), apart) if direct else Plan(False, follows)
        _PLANS[key] = plan
    return (scan, plan) if plan.direct else plan_of(as_kernels_read(scan), y, saved_apart, apart=apart)


def _new_plan(scan: Scan, y: Tensor | bool, follows: bool, saved_apart: int, apart: bool) -> Plan:
    y_shape = tuple(y.shape) if isinstance(y, Tensor) else scan.y_shape(y)
    if apart and not isinstance(y, Tensor):
        y_shape = gpu_sums.steps_shape(scan)
    if not isinstance(y, Tensor):
        y = torch.empty(y_shape, dtype=scan.u.dtype, device="meta")
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
        "OFFSET": tl.int32 if scan.pixels * widest < 2**31 and not apart else tl.int64,
        "APART": apart,
    }
    sizes = {"n_pixels": scan.pixels, "n_sequences": scan.n_sequences, "n_steps": scan.n_steps}
    absent = {name for name in strides if follows and name.startswith(("b_", "c_"))}
    return Plan(
        direct=True,
        follows=follows,
        numbers={name: None if name in absent else x for name, x in {**strides, **sizes}.items()},
        constants=constants,
        rows=scan.batch * scan.n_routes * scan.n_sequences,
        y_shape=y_shape,
        state_shape=scan.state_shape,
        states_shape=states_shape(scan, saved_apart),
        widths=(scan.dt.shape[-1], scan.d_state, scan.d_state),
        maps=Room.of({}) if apart else _room_of_maps(scan, follows),
        parameters=Room.of({} if apart else parameter_layouts(scan)),
        dtype_of_maps=None if apart else _one_dtype(scan),
    )


def parameter_layouts(scan: Scan) -> dict[str, tuple[Sequence[int], Sequence[int]] | None]:
    """Shapes and strides of the parameters' gradients, which are those of the parameters: a's memory is (K, N, Dk)."""
    given = {"dt_weight": scan.dt_weight, "a": scan.a, "skip": scan.skip, "dt_bias": scan.dt_bias}
    return {f"grad_{name}": None if x is None else (x.shape, x.stride()) for name, x in given.items()}


def _room_of_maps(scan: Scan, follows: bool) -> Room:
    """Gradients without gaps; of a whole projection where b and c follow dt."""
    shapes: dict[str, Sequence[int] | None] = {"grad_u": scan.u.shape, "grad_dt": scan.dt.shape}
    shapes |= {"grad_b": scan.b.shape, "grad_c": scan.c.shape}
    if follows:
        whole = (*scan.dt.shape[:-1], scan.dt.shape[-1] + 2 * scan.d_state)
        shapes |= {"grad_dt": whole, "grad_b": None, "grad_c": None}

    def layout(shape: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        return shape, torch.empty(shape, dtype=torch.float32, device="meta").stride()

    return Room.of({name: None if shape is None else layout(shape) for name, shape in shapes.items()})


def _one_dtype(scan: Scan) -> torch.dtype | None:
    dtypes = {x.dtype for x in (scan.u, scan.dt, scan.b, scan.c)}
    return dtypes.pop() if len(dtypes) == 1 and torch.float32 not in dtypes else None


def states_shape(scan: Scan, saved_apart: int) -> tuple[int, ...]:
    """States saved for the backward pass, one every `saved_apart` steps inside: (B, K, S, number, N, Dk)."""
    between: Any = (scan.n_steps + saved_apart - 1) // saved_apart - 1
    between = max(between, 0) if isinstance(between, int) else torch.sym_max(between, 0)
    return (scan.batch, scan.n_routes, scan.n_sequences, between, scan.d_state, scan.route_channels)


def follow(scan: Scan) -> bool:
    """Whether dt, b and c are slices of one projection."""
    dt, b, c = scan.dt, scan.b, scan.c
    weight = scan.dt_weight
    if weight is None:
        return False
    rank, width, start, offset = weight.shape[1], b.shape[3], dt.data_ptr(), dt.storage_offset()
    item = dt.itemsize
    # Two tensors that are as far apart in memory as in their storages have the same storage.
    return bool(
        b.storage_offset() - offset == rank
        and c.storage_offset() - offset == rank + width
        and b.data_ptr() - start == rank * item
        and c.data_ptr() - start == (rank + width) * item
        and dt.dtype == b.dtype == c.dtype
        and dt.stride() == b.stride() == c.stride()
    )


def tensors_of(scan: Scan, plan: Plan) -> dict[str, Tensor | None]:
    """The tensors of a scan by the names of the kernels' arguments.

    Kernels are given their addresses: a's memory is (K, N, Dk), and dt is followed by b and c where they are left out.
    """
    tensors: dict[str, Tensor | None] = dict(zip(Scan._fields, scan, strict=True))
    if plan.follows:
        tensors["b"] = tensors["c"] = None
    return tensors


def whole_projection(scan: Scan) -> Tensor:
    """dt with the b and c that follow it."""
    return scan.dt.as_strided((*scan.dt.shape[:-1], scan.rank + 2 * scan.d_state), scan.dt.stride())


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


def frame_of(
    kernel: Any,
    tile: Tile,
    tensors: dict[str, Tensor | None],
    plan: Plan,
    parts: Parts,
    saved_apart: int,
) -> Frame:
    """One program for every batch element, route, sequence, part and channel block."""
    blocks = ceil_div(plan.constants["D"], tile.channels)
    only_here = {
        "STEPS": tile.steps,
        "CHANNELS": tile.channels,
        "CHANNEL_BLOCKS": blocks,
        "SAVED_APART": saved_apart,
        "PRECISION": precision(),
    }
    known = {name: x for name, x in {**plan.constants, **only_here}.items() if name in kernel.arg_names}
    given: Arguments = {**tensors, **plan.numbers, "n_parts": parts.count, "part_steps": parts.steps}
    data = KernelLaunch(
        kernel,
        (plan.rows * parts.count * blocks,),
        {name: given[name] for name in kernel.arg_names if name not in known},
        known,
        tile.num_warps,
        num_stages=tile.num_stages,
        maxnreg=tile.maxnreg,
        amd_constants=_ON_AMD,
    )
    return Frame.of(data)
