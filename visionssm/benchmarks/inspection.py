"""What the Triton kernels cost, known without a GPU: registers, spills, bytes, arithmetic and the floors they set.

Three sources: the compiler's own resource table for every target; `traffic.py`, which computes bytes from shapes; and
`ptx.py`, which executes the compiled code of NVIDIA targets and counts what it does. None of it is a measurement of
time.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import visionssm.kernels
from visionssm.benchmarks import ptx
from visionssm.benchmarks.kernels import SHAPES, Shape
from visionssm.benchmarks.timing import progress, table
from visionssm.benchmarks.traffic import (
    GPUS,
    MemoryTraffic,
    ideal_scan,
    least_on_chip,
    memory_traffic,
    our_passes,
    program_traffic,
    published_passes,
    specials,
)
from visionssm.files import complete_or_absent
from visionssm.kernels.aot import TARGETS, KernelLaunch
from visionssm.kernels.selective_scan.scan import Scan

Row = dict[str, Any]
EXECUTED_ON = "sm90"
_MULTIPLY_ADDS = ("fma.rn.f32", "mul.f32", "add.f32", "sub.f32")  # of which f32x2 forms do two
_SPECIALS = ("ex2.", "div.full", "lg2.", "rcp.")

# Shapes of the operators' `launches(...)`; the selective scan's come from `SHAPES`.
OTHER_SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "ssd": {"14×14, 6 heads of 64, N=64": {"steps": 196, "heads": 6, "width": 64, "d_state": 64}},
    "linear_recurrence": {"16 steps of 64×16×16, complex": {"steps": 16, "inner": 64 * 16 * 16}},
    "deformable_sum": {"56×56, 5 groups of 32": {"height": 56, "width": 56, "groups": 5, "channels": 32}},
    "plstm2d": {"14×14, 3 heads": {"rows": 14, "columns": 14, "batch": 3}},
}


def operators() -> list[str]:
    """Operators that have GPU kernels and say how they launch them (`gpu.launches`)."""
    found = []
    for module in pkgutil.iter_modules(visionssm.kernels.__path__, "visionssm.kernels."):
        name = f"{module.name}.gpu"
        if module.ispkg and importlib.util.find_spec(name) and hasattr(importlib.import_module(name), "launches"):
            found.append(module.name.rpartition(".")[2])
    return found


def all_launches(operator: str, dtype: torch.dtype) -> Iterator[tuple[str, str, KernelLaunch]]:
    """(shape, kernel, launch) of a training step of an operator at every shape that is looked at.

    Raises:
        ValueError: no shape is known for the operator.
    """
    make = importlib.import_module(f"visionssm.kernels.{operator}.gpu").launches
    if operator == "selective_scan":
        shapes = {x.name: {**_scan_sizes(x), "dtype": dtype} for x in SHAPES}
    elif operator in OTHER_SHAPES:
        shapes = OTHER_SHAPES[operator]
    else:
        raise ValueError(f"no shape of {operator} is known; add one to visionssm.benchmarks.inspection.OTHER_SHAPES")
    for shape, sizes in shapes.items():
        for kernel, launch in make(**sizes).items():
            yield shape, kernel, launch


def _scan_sizes(shape: Shape) -> dict[str, int]:
    return {
        "pixels": shape.height * shape.width,
        "channels": shape.channels,
        "d_state": shape.d_state,
        "routes": shape.n_routes,
        "rank": shape.dt_rank,
        "batch": shape.batch,
    }


def resources(targets: Sequence[str] = tuple(TARGETS), dtype: torch.dtype = torch.float32) -> list[Row]:
    """Registers, spills and shared memory of every kernel of every operator, shape and target, and its ideal bytes."""
    rows = []
    for operator in operators():
        if operator != "selective_scan" and operator not in OTHER_SHAPES:
            progress(f"{operator}: no shape is known, left out")
            continue
        for shape, kernel, launch in all_launches(operator, dtype):
            for target in targets:
                progress(f"compiling {operator} {kernel}, {shape}, {target} …")
                report = launch.compile_for(target)
                rows.append(
                    {
                        "operator": operator,
                        "kernel": kernel,
                        "shape": shape,
                        "target": target,
                        "warps": report.num_warps,
                        "registers": report.registers,
                        "spilled bytes": report.spill_bytes,
                        "scalar spills": report.scalar_spills,
                        "shared bytes": report.shared_bytes,
                        "tensors MB": tensor_bytes(launch) / 1e6,
                    }
                )
    return rows


def tensor_bytes(launch: KernelLaunch) -> int:
    """Bytes of all tensors of a launch: what it moves if it reads and writes each element once."""
    return sum(x.numel() * x.element_size() for x in launch.arguments.values() if isinstance(x, Tensor))


# ------------------------------------------------------------------------------------------- compiled code, executed


@dataclass(frozen=True)
class Executed:
    """A forward launch of the scan, executed: the trace, and what `traffic.program_traffic` says to it."""

    trace: ptx.Trace
    expected: dict[tuple[str, str], int]
    programs: int


def forward_example(shape: Shape, steps: int, dtype: torch.dtype) -> KernelLaunch:
    """The scan of a shape over a map of `steps` pixels, on CPU tensors, which can be executed but not launched."""
    from visionssm.kernels.selective_scan import gpu

    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    batch, d, n, r, k = shape.batch, shape.channels, shape.d_state, shape.dt_rank, shape.n_routes
    u = normal(batch, steps, d).to(dtype)
    low, b, c = (normal(batch, steps, k, width).to(dtype) for width in (r, n, n))
    order = torch.stack([torch.randperm(steps, generator=generator) for _ in range(k)])[:, None].int()
    skip, bias = normal(k, d), normal(k, d)
    scan = Scan(u, low, normal(k, r, d), -normal(k, d, n).exp(), b, c, skip, bias, order, None)
    *_, launch = gpu.forward_launch(scan, merge=True, save_states=True)
    return launch


def execute(launch: KernelLaunch, target: str, programs: Sequence[int] | None = None) -> ptx.Trace:
    """Compile a launch on CPU tensors for an NVIDIA target and execute the code, all programs or some."""
    report = launch.compile_for(target)
    chosen = range(launch.grid[0]) if programs is None else programs
    return ptx.run(report.assembly, launch.arguments, chosen, shared_bytes=report.shared_bytes)


def execute_forward(shape: Shape, steps: int, dtype: torch.dtype, target: str) -> Executed:
    """Execute the whole forward scan of a shape over `steps` pixels beside the count from its sizes."""
    from visionssm.kernels.selective_scan import gpu

    launch = forward_example(shape, steps, dtype)
    expected = program_traffic(
        batch=shape.batch,
        steps=steps,
        routes=shape.n_routes,
        channels=shape.channels,
        d_state=shape.d_state,
        rank=shape.dt_rank,
        item=dtype.itemsize,
        block=gpu.forward_tile(shape.d_state).channels,
        saved=gpu.saved_apart(shape.d_state),
    )
    trace = execute(launch, target)
    return Executed(trace, {k: v for k, v in expected.items() if v}, launch.grid[0])


@dataclass(frozen=True)
class Issued:
    """What the forward kernel issues for a whole shape: bytes that its warps ask for, operations of its threads.

    Without the states that are saved for a backward pass.
    """

    requested: float
    specials: float
    multiply_adds: float
    programs: int


def issued(shape: Shape, dtype: torch.dtype, target: str = EXECUTED_ON) -> Issued:
    """Executed for one program over 64 and over 128 steps; every further chunk of steps costs the same again."""
    short, long = (execute(forward_example(replace(shape, batch=1), n, dtype), target, [0]) for n in (64, 128))
    launch = forward_example(replace(shape, batch=1), 64, dtype)
    programs = launch.grid[0] * shape.batch
    steps = shape.height * shape.width

    def whole(count: Any) -> float:
        first, second = count(short), count(long)
        return programs * (first + (second - first) * (steps - 64) / 64)

    return Issued(
        requested=whole(lambda t: sum(n for (_, tensor), n in t.requested.items() if tensor != "states")),
        specials=whole(lambda t: sum(n for name, n in t.executed.items() if name.startswith(_SPECIALS))),
        multiply_adds=whole(lambda t: _multiply_adds(t.executed)),
        programs=programs,
    )


def _multiply_adds(executed: Counter[str]) -> int:
    return sum(executed[name] + 2 * executed[f"{name}x2"] for name in _MULTIPLY_ADDS)


# ----------------------------------------------------------------------------------------------------------- tables


def traffic_rows(shapes: Sequence[Shape], batches: Sequence[int], dtype: torch.dtype) -> list[Row]:
    """Bytes of the forward core, from the map to the merged map, in our layout and in the published one."""
    from visionssm.kernels.selective_scan import gpu as kernels

    rows = []
    for shape in shapes:
        progress(f"executing the forward scan of {shape.name} …")
        one = issued(shape, dtype)
        for batch in batches:
            sized = replace(shape, batch=batch)
            ideal = ideal_scan(sized, dtype.itemsize)
            reach = program_traffic(
                batch=batch,
                steps=shape.height * shape.width,
                routes=shape.n_routes,
                channels=shape.channels,
                d_state=shape.d_state,
                rank=shape.dt_rank,
                item=dtype.itemsize,
                block=kernels.forward_tile(shape.d_state).channels,
                saved=kernels.saved_apart(shape.d_state),
            )
            ours, published = (sum(f(sized, dtype.itemsize).values()) for f in (our_passes, published_passes))
            rows.append(
                {
                    "scan": shape.name,
                    "batch": batch,
                    "ideal MB": ideal / 1e6,
                    "asked by warps / ideal": one.requested * batch / ideal,
                    "reaches programs / ideal": sum(v for k, v in reach.items() if k[1] != "states") / ideal,
                    **{
                        f"least in {gpu.name} / ideal": _ratio(least_on_chip(sized, dtype.itemsize, gpu.shared), ideal)
                        for gpu in GPUS[:2]
                    },
                    "our passes MB": ours / 1e6,
                    "published passes MB": published / 1e6,
                    "published / ours": published / ours,
                }
            )
    return rows


def _ratio(count: int | None, ideal: int) -> float | None:
    return None if count is None else count / ideal


def floor_rows(shapes: Sequence[Shape], batches: Sequence[int], dtype: torch.dtype) -> list[Row]:
    """The least time that memory, exponentials and multiply-adds allow for the forward scan, by data sheets."""
    rows = []
    for shape in shapes:
        progress(f"floors of {shape.name} …")
        one = issued(shape, dtype)
        for gpu in GPUS:
            launch = next(x for n, kernel, x in all_launches("selective_scan", dtype)
                          if n == shape.name and kernel == "forward")  # fmt: skip
            report = launch.compile_for(gpu.target)
            threads = report.num_warps * TARGETS[gpu.target][2]
            resident = gpu.resident_programs(
                threads=threads, registers=report.registers, shared_bytes=report.shared_bytes
            )
            for batch in batches:
                sized = replace(shape, batch=batch)
                moved = memory_traffic(sized, dtype.itemsize, gpu, resident=resident, programs=one.programs * batch)
                each = gpu.processors * gpu.clock
                floors = {
                    "memory": moved.bytes / gpu.bandwidth,
                    "special": one.specials * batch / (each * gpu.specials),
                    "multiply-add": one.multiply_adds * batch / (each * gpu.multiply_adds),
                }
                rows.append(
                    {
                        "scan": shape.name,
                        "batch": batch,
                        "GPU": gpu.name,
                        "memory MB": moved.bytes / 1e6,
                        "memory / ideal": moved.bytes / ideal_scan(sized, dtype.itemsize),
                        "cache serves": moved.served,
                        "published / ours": _published_over(sized, dtype.itemsize, moved),
                        "exp algorithm M": specials(sized) / 1e6,
                        **{f"{name} µs": seconds * 1e6 for name, seconds in floors.items()},
                        "binds": max(floors, key=lambda name: floors[name]),
                        "waves": one.programs * batch / resident,
                    }
                )
    return rows


def _published_over(shape: Shape, item: int, ours: MemoryTraffic) -> float | None:
    """Bytes of the published passes over those of our projection and scan; None where ours stay in the cache."""
    if ours.served == "all":
        return None
    return sum(published_passes(shape, item).values()) / (our_passes(shape, item)["project"] + ours.bytes)


def markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """All tables under their headings."""
    note = "Computed from shapes, data sheets and compiled code; nothing here was timed.\n\n"
    return note + "\n\n".join(f"## {title}\n\n{table(rows)}" for title, rows in tables.items() if rows) + "\n"


def write(path: str | Path, text: str) -> None:
    """Write a file by way of a temporary one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        temporary.write_text(text)


def write_tables(tables: Mapping[str, Sequence[Row]], *, json_path: str | None, markdown_path: str | None) -> None:
    """Write the tables as JSON, as Markdown, or both."""
    if json_path:
        write(json_path, json.dumps(tables, indent=1) + "\n")
    if markdown_path:
        write(markdown_path, markdown(tables))
