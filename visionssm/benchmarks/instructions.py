"""Instructions that the compiled selective scan issues for each step, beside those of the published CUDA kernel.

The unit is a warp-step: 32 channels, one step, one route. Both passes are one loop over chunks of steps, so what its
machine code holds is what every chunk costs, and no GPU is needed to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from visionssm.benchmarks import machine_code
from visionssm.benchmarks.inspection import Row, all_launches
from visionssm.benchmarks.machine_code import Loop
from visionssm.benchmarks.timing import progress
from visionssm.benchmarks.traffic import GPUS
from visionssm.kernels.aot import TARGETS, KernelLaunch, KernelReport

# Counted in the same way in the kernels of mamba_ssm (csrc/selective_scan), compiled for sm_90 and bfloat16. They
# read step sizes that another kernel has expanded and copies of the map that others have made.
PUBLISHED = {
    ("VMamba-T stage 1", "forward"): 132,
    ("VMamba-T stage 2", "forward"): 132,
    ("VMamba-T stage 3", "forward"): 132,
    ("VMamba-T stage 4", "forward"): 263,
    ("VMamba-v0-T stage 1", "forward"): 810,
    ("Vim-T", "forward"): 810,
    ("VMamba-T stage 1", "backward"): 244,
    ("VMamba-T stage 2", "backward"): 244,
    ("VMamba-T stage 3", "backward"): 244,
    ("VMamba-T stage 4", "backward"): 488,
    ("VMamba-v0-T stage 1", "backward"): 1830,
    ("Vim-T", "backward"): 1830,
}


@dataclass(frozen=True)
class Count:
    """A launch's loop over chunks, as compiled for a target; figures are numbers for each warp-step."""

    instructions: float
    barriers: float
    shuffles: float
    shared: float  # accesses of shared memory
    local: float  # of spilled registers
    memory: float  # loads and stores of global memory, atomic additions
    specials: float  # exponentials
    products: float  # of tensor cores
    registers: int
    spill_bytes: int
    warps: int  # resident on a multiprocessor of the GPU in `traffic.GPUS`


def count(launch: KernelLaunch, target: str) -> Count:
    """Compile a launch of the selective scan for a target and count its loop over chunks.

    Raises:
        ValueError: `target` is unknown, or the code has no loop.
    """
    return counted(launch, launch.compile_for(target))


def counted(launch: KernelLaunch, report: KernelReport) -> Count:
    """`count` of what is compiled already."""
    loops = machine_code.loops(report.machine_code())
    if not loops:
        raise ValueError(f"{report.kernel} has no loop for {report.target}")
    walk = max(loops, key=lambda loop: loop.count())
    gpu = next(gpu for gpu in GPUS if gpu.target == report.target)
    lanes = TARGETS[report.target][2]
    tile = launch.constants["STEPS"] * launch.constants["CHANNELS"]
    elements = tile // (lanes * report.num_warps)  # of a thread
    units = tile / 32  # warp-steps of a chunk
    programs = gpu.resident_programs(
        threads=lanes * report.num_warps, registers=report.registers, shared_bytes=report.shared_bytes
    )

    def each(kinds: Sequence[str] | None) -> float:
        return _executed(walk, kinds, launch, elements) * report.num_warps / units

    return Count(
        instructions=each(None),
        barriers=each(machine_code.BARRIERS),
        shuffles=each(machine_code.SHUFFLES),
        shared=each(machine_code.SHARED),
        local=each(machine_code.LOCAL),
        memory=each(machine_code.GLOBAL),
        specials=each(machine_code.SPECIALS),
        products=each(machine_code.MATRIX),
        registers=report.registers,
        spill_bytes=report.spill_bytes,
        warps=programs // gpu.processors * report.num_warps,
    )


def _executed(loop: Loop, kinds: Sequence[str] | None, launch: KernelLaunch, elements: int) -> float:
    """Instructions of some kinds (None: all) in a turn of the loop over chunks.

    Of the loops inside, those over states take N turns, fewer where the compiler unrolled them (each state takes one
    exponential per element). The backward pass walks a block of chunks forwards, all but the last, before the first of
    them: a loop with a loop over states inside.
    """
    total = float(sum(kinds is None or name.startswith(tuple(kinds)) for name in loop.names))
    for inner in loop.inner:
        if inner.inner:
            chunks = launch.constants["SAVED_APART"] // launch.constants["STEPS"]
            turns = (chunks - 1) / chunks
        else:
            copies = max(1, round(sum(name.startswith(machine_code.SPECIALS) for name in inner.names) / elements))
            turns = launch.constants["N"] / copies
        total += turns * _executed(inner, kinds, launch, elements)
    return total


def instruction_rows(patterns: Sequence[str], targets: Sequence[str], dtype: torch.dtype) -> list[Row]:
    """A row for each scan of `patterns`, pass and target; the published kernel's count where it is known (sm90)."""
    rows = []
    for shape, kernel, launch in all_launches("selective_scan", dtype):
        if shape not in patterns:
            continue
        for target in targets:
            progress(f"counting the {kernel} scan of {shape}, {target} …")
            one = count(launch, target)
            published = PUBLISHED.get((shape, kernel)) if target == "sm90" else None
            rows.append(
                {
                    "scan": shape,
                    "pass": kernel,
                    "target": target,
                    "instructions / warp-step": round(one.instructions, 1),
                    "published": published,
                    "barriers": round(one.barriers, 2),
                    "shuffles": round(one.shuffles, 1),
                    "shared": round(one.shared, 1),
                    "memory": round(one.memory, 1),
                    "exponentials": round(one.specials, 1),
                    "products": round(one.products, 1),
                    "registers": one.registers,
                    "spilled bytes": one.spill_bytes,
                    "warps resident": one.warps,
                }
            )
    return rows
