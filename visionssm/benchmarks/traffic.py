"""Bytes that the selective scan moves: at the least, in our layout, in the published one, and on a given GPU.

Everything here is computed from shapes. `inspection.py` holds it against the compiled code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from visionssm.benchmarks.kernels import Shape

FLOAT, INDEX = 4, 4  # bytes of parameters, sums and states; of a route table's entry


@dataclass(frozen=True)
class Gpu:
    """Figures of a data sheet. `cache` is the last level before memory: L2, on AMD the Infinity Cache."""

    name: str
    target: str  # in `visionssm.kernels.aot.TARGETS`
    bandwidth: float  # bytes/s
    cache: int  # bytes
    processors: int  # streaming multiprocessors or compute units
    clock: float  # Hz, boost
    specials: int  # exponentials or divisions a processor and clock
    multiply_adds: int  # float32, a processor and clock, without packing two in one instruction
    registers: int  # 32-bit, a processor
    threads: int  # resident, a processor
    shared: int  # bytes of shared memory, a processor

    def resident_programs(self, *, threads: int, registers: int, shared_bytes: int) -> int:
        """Programs that run at once when there are enough of them."""
        by_registers = self.registers // (threads * max(registers, 1))
        by_shared = self.shared // max(shared_bytes, 1)
        return self.processors * max(1, min(by_registers, by_shared, self.threads // threads, 32))


GPUS = (
    Gpu("A100 80 GB", "sm80", 2.039e12, 40 << 20, 108, 1.41e9, 16, 64, 65536, 2048, 164 << 10),
    Gpu("H100 SXM", "sm90", 3.35e12, 50 << 20, 132, 1.98e9, 16, 128, 65536, 2048, 228 << 10),
    Gpu("B200", "sm100", 8.0e12, 126 << 20, 148, 1.965e9, 16, 128, 65536, 2048, 228 << 10),
    Gpu("MI300X", "gfx942", 5.3e12, 256 << 20, 304, 2.1e9, 16, 64, 131072, 2048, 64 << 10),
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of elements of one scan's tensors; K routes that each visit every pixel."""

    map: int  # B·L·D
    projected: int  # B·L·K·(R + 2N)
    full_steps: int  # B·L·K·D
    low_steps: int  # B·L·K·R
    projection: int  # K·(R + 2N)·D
    parameters: int  # dt weight, a, d, dt bias: K·D·(R + N + 2)
    table: int  # K·L
    final_state: int  # B·K·D·N

    @classmethod
    def of(cls, shape: Shape) -> Sizes:
        """Sizes of a model's scan."""
        pixels, k = shape.batch * shape.height * shape.width, shape.n_routes
        width = shape.dt_rank + 2 * shape.d_state
        return cls(
            map=pixels * shape.channels,
            projected=pixels * k * width,
            full_steps=pixels * k * shape.channels,
            low_steps=pixels * k * shape.dt_rank,
            projection=k * width * shape.channels,
            parameters=k * shape.channels * (shape.dt_rank + shape.d_state + 2),
            table=k * shape.height * shape.width,
            final_state=shape.batch * k * shape.channels * shape.d_state,
        )


def ideal_scan(shape: Shape, item: int) -> int:
    """Each input of the scan read once and each output written once; `item`: bytes of an element of the maps."""
    x = Sizes.of(shape)
    return (2 * x.map + x.projected) * item + (x.parameters + x.final_state) * FLOAT + x.table * INDEX


def our_passes(shape: Shape, item: int) -> dict[str, int]:
    """Bytes of each kernel of our layout from the map to the merged map, if every kernel moves its tensors once.

    The sum over routes is float32 in memory: it is cleared, read and written by the scan, and converted if the maps
    are in half precision.
    """
    x = Sizes.of(shape)
    passes = {
        "project": (x.map + x.projected + x.projection) * item,
        "clear": x.map * FLOAT,
        "scan": (x.map + x.projected) * item
        + 2 * x.map * FLOAT
        + (x.parameters + x.final_state) * FLOAT
        + x.table * INDEX,
    }
    if item != FLOAT:
        passes["convert"] = x.map * (FLOAT + item)
    return passes


def published_passes(shape: Shape, item: int) -> dict[str, int]:
    """The same for the published layout, which keeps a copy of the map per route (VMamba, arXiv 2401.10166).

    Copies for every route; projections of every copy; expansion of the steps to all channels; a scan of the copies;
    the sum of its results. Every pass is taken to be one kernel that moves its tensors once, in the maps' dtype.
    """
    x = Sizes.of(shape)
    copies = shape.n_routes * x.map
    vectors = x.projected - x.low_steps  # b and c
    return {
        "copy": (x.map + copies) * item,
        "project": (copies + x.projected + x.projection) * item,
        "expand": (x.low_steps + x.full_steps + shape.n_routes * shape.channels * shape.dt_rank) * item,
        "scan": (copies + x.full_steps + vectors + copies) * item
        + shape.n_routes * shape.channels * (shape.d_state + 2) * FLOAT,
        "merge": (copies + x.map) * item,
    }


@dataclass(frozen=True)
class MemoryTraffic:
    """Bytes that our scan, with clearing and converting its sum, moves between memory and the last cache.

    `served`: which repeated reads and sums the cache serves.
    """

    bytes: int
    served: str
    working_set: int


def memory_traffic(shape: Shape, item: int, gpu: Gpu, *, resident: int, programs: int) -> MemoryTraffic:
    """Model of one forward scan on one GPU.

    The kernel reads the map once per route and adds to the float32 sum once per route; programs of one image read the
    same tensors at the same time. Half of the cache counts, so that other data and uneven placement fit beside it.

    - all tensors fit: what the kernels before and after leave is still there; each tensor moves once.
    - the images in flight fit, those that the resident programs work on: repeats within the scan hit, while clearing
      and converting the sum are passes over memory.
    - else nothing is taken to hit but what neighbouring channel blocks read together: the map moves once and the sum
      twice (it is read and written) per route.

    Args:
        shape: the scan, with its batch.
        item: bytes of an element of the maps.
        gpu: whose cache.
        resident: programs that run at once.
        programs: programs of the launch.
    """
    x = Sizes.of(shape)
    once = (x.map + x.projected) * item + (x.parameters + x.final_state) * FLOAT + x.table * INDEX
    converted = x.map * item if item != FLOAT else 0
    image = (x.map * (item + FLOAT) + x.projected * item + converted) // shape.batch
    flying = min(shape.batch, math.ceil(resident * shape.batch / programs))
    room = gpu.cache // 2
    if image * shape.batch <= room:
        return MemoryTraffic(once + x.map * item, "all", image * shape.batch)
    outside = x.map * FLOAT + (x.map * (FLOAT + item) if converted else 0)  # clear, convert
    if image * flying <= room:
        return MemoryTraffic(once + 2 * x.map * FLOAT + outside, "within the scan", image * flying)
    repeats = shape.n_routes - 1
    moved = once + 2 * x.map * FLOAT + outside + repeats * (x.map * item + 2 * x.map * FLOAT)
    return MemoryTraffic(moved, "none", image * flying)


def program_traffic(
    *, batch: int, steps: int, routes: int, channels: int, d_state: int, rank: int, item: int, block: int, saved: int
) -> dict[tuple[str, str], int]:
    """Bytes of each tensor that reach the programs of the forward kernel, one a (image, route, block of channels).

    A program reads its channels of the map along its route, and for itself the table, the low-rank steps, b and c of
    every step; parameters and its own repeats are in its first-level cache. Keys are those of `ptx.Trace`.

    Args:
        steps: T, each of another pixel.
        item: bytes of an element of the map, low-rank steps, b and c.
        block: channels of a program.
        saved: steps between saved states.
    """
    programs = batch * routes * math.ceil(channels / block)
    rows = batch * routes  # of all channels
    return {
        ("load", "order"): programs * steps * INDEX,
        ("load", "u"): rows * steps * channels * item,
        ("load", "dt"): programs * steps * rank * item,
        ("load", "b"): programs * steps * d_state * item,
        ("load", "c"): programs * steps * d_state * item,
        ("load", "dt_weight"): rows * rank * channels * FLOAT,
        ("load", "a"): rows * d_state * channels * FLOAT,
        ("load", "skip"): rows * channels * FLOAT,
        ("load", "dt_bias"): rows * channels * FLOAT,
        ("atomic", "y"): rows * steps * channels * FLOAT,
        ("store", "final_state"): rows * channels * d_state * FLOAT,
        ("store", "states"): rows * (math.ceil(steps / saved) - 1) * channels * d_state * FLOAT,
    }


def least_on_chip(shape: Shape, item: int, on_chip: int) -> int | None:
    """Bytes that the scan issues at the least if every pixel of the map is read, and every sum written, only once.

    A route needs what all pixels before it gave, so u and the float32 sum of the routes stay in the memory of a
    multiprocessor from the first route to the last. Two ways fit a map into it:

    - a block of channels of the whole map: every block reads the low-rank steps, b and c of all pixels again;
    - a band of whole rows, all channels: the two routes down the columns cross it once per column. Each crossing
      publishes ΣΔ and the state it ends with, these are composed in order, and the state that enters is read.

    None if not even sixteen channels of a map or one row fit.
    """
    x = Sizes.of(shape)
    pixels = shape.height * shape.width
    ideal = ideal_scan(shape, item)
    ways = []
    if block := on_chip // (pixels * (item + FLOAT)) // 16 * 16:
        ways.append(ideal + (math.ceil(shape.channels / block) - 1) * x.projected * item)
    if rows := on_chip // (shape.width * shape.channels * (item + FLOAT)):
        bands = math.ceil(shape.height / rows)
        moved = 2 * (1 + shape.d_state) + 2 * shape.d_state  # floats of a crossing and channel
        crossings = 0 if bands == 1 else shape.batch * bands * shape.width * shape.n_routes // 2
        ways.append(ideal + crossings * shape.channels * moved * FLOAT)
    return min(ways, default=None)


def specials(shape: Shape) -> int:
    """Exponentials of the forward scan: one per step and channel for softplus, one per state."""
    return Sizes.of(shape).full_steps * (1 + shape.d_state)
