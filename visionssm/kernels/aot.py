"""Triton kernel launches as data: run one, or compile it for a GPU that is not there and see what it costs.

Triton compiles for any target on any machine, so register use, spills and shared memory of the very launches that the
operators make are known, and tested, without a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget

    from visionssm.kernels.launch import Starter

# Name: (Triton backend, architecture, threads in a warp).
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm80": ("cuda", 80, 32),  # A100
    "sm90": ("cuda", 90, 32),  # H100, H200
    "sm100": ("cuda", 100, 32),  # B200
    "gfx942": ("hip", "gfx942", 64),  # MI300
}

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
_ALIGNED = ":16"  # suffix of a type: the pointer or integer is a multiple of 16
_SMALL = ":2g"  # suffix of an aligned pointer: its tensor ends within 2 GiB, so AMD's 32-bit buffer loads reach it


_STARTERS: dict[tuple[Any, ...], Starter] = {}  # they keep the kernels, whose ids the keys have
_MOST_STARTERS = 4096  # maps of any size may come


def forget_starters() -> None:
    """Let Triton look at every launch anew."""
    _STARTERS.clear()


@dataclass(frozen=True)
class KernelReport:
    """What one compiled kernel uses.

    `registers` are 32-bit vector registers per thread, `spill_bytes` what a thread spills to memory, `shared_bytes` a
    block's. `scalar_spills` (AMD only) are scalar registers that the compiler keeps in lanes of vector registers: they
    cost moves but no memory traffic. `assembly` is the text that the compiler wrote, PTX or AMD's; `binary` is what an
    NVIDIA GPU is given.
    """

    kernel: str
    target: str
    num_warps: int
    registers: int
    spill_bytes: int
    scalar_spills: int
    shared_bytes: int
    assembly: str = field(repr=False)
    binary: bytes = field(repr=False, default=b"")

    def machine_code(self) -> str:
        """The instructions that the GPU executes: disassembled (NVIDIA), or the assembly, which has the same (AMD)."""
        return _dump(self.binary, "-sass") if self.binary else self.assembly


@dataclass(frozen=True)
class KernelLaunch:
    """One kernel launch: the kernel, its grid, run-time arguments in order, compile-time constants and warps.

    `num_stages`: of loops that Triton pipelines, its own choice if None. `maxnreg`: registers that a thread may take on
    NVIDIA's GPUs, so that more warps are resident. `amd_constants`: constants that differ on AMD's GPUs.

    Made from meta tensors, it can be compiled but not run.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Tensor | int | None]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int | None = None
    maxnreg: int | None = None
    amd_constants: Mapping[str, Any] = field(default_factory=dict)

    def options(self, backend: str) -> dict[str, int]:
        """Triton's options of the launch for a backend of `TARGETS`."""
        options = {"num_warps": self.num_warps}
        if self.num_stages is not None:
            options["num_stages"] = self.num_stages
        if self.maxnreg is not None and backend == "cuda":
            options["maxnreg"] = self.maxnreg
        return options

    def constants_for(self, backend: str) -> dict[str, Any]:
        """Compile-time constants for a backend of `TARGETS`."""
        return {**self.constants, **(self.amd_constants if backend == "hip" else {})}

    def run(self) -> None:
        """Launch on the device of the arguments; an empty grid launches nothing."""
        kinds = tuple([x.dtype if isinstance(x, Tensor) else x for x in self.arguments.values()])
        chosen = self.num_warps, self.num_stages, self.maxnreg
        key = (id(self.kernel), *chosen, tuple(self.arguments), kinds, tuple(self.constants.items()))
        starter = _STARTERS.get(key)
        if starter is None:
            if len(_STARTERS) >= _MOST_STARTERS:
                _STARTERS.clear()
            starter = _STARTERS[key] = self.starter()
        starter.run(self.grid, self.arguments)

    def starter(self) -> Starter:
        """What starts this launch, and others of the same dtypes and numbers."""
        from visionssm.kernels.launch import Starter  # which needs Triton

        backend = "hip" if torch.version.hip else "cuda"
        return Starter(self.kernel, self.arguments, self.constants_for(backend), self.options(backend))

    def compile_for(self, target: str) -> KernelReport:
        """Compile for a target of `TARGETS` as Triton would when this launch runs there."""
        signature, absent = {}, {}
        for name, value in self.arguments.items():
            signature[name] = _type_of(value)
            if value is None or (isinstance(value, int) and value == 1):  # Triton compiles these values in
                signature[name], absent[name] = "constexpr", value
        signature |= dict.fromkeys(self.constants, "constexpr")
        backend = TARGETS[target][0] if target in TARGETS else ""
        constants = {**absent, **self.constants_for(backend)}
        return compile_for(self.kernel, signature, constants, target, **self.options(backend))


def compile_for(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    target: str,
    num_warps: int,
    **options: int,
) -> KernelReport:
    """Compile a `triton.jit` kernel for a target, with no GPU present.

    Args:
        kernel: the decorated function.
        signature: type of each parameter, in order: `*fp32`, `i32`, …, `constexpr`; `:16` after a type says that the
            pointer or integer is a multiple of 16, `:2g` that the tensor ends within 2 GiB.
        constants: values of the `constexpr` parameters.
        target: a name in `TARGETS`.
        num_warps: warps per block.
        options: others of Triton's compiler: num_stages, maxnreg.

    Raises:
        ValueError: `target` is unknown.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if target not in TARGETS:
        raise ValueError(f"target={target!r} is not known; choose one of {', '.join(TARGETS)}")
    gpu = GPUTarget(*TARGETS[target])
    types = {name: kind.partition(":")[0] for name, kind in signature.items()}
    facts: dict[tuple[int], list[list[Any]]] = {}
    for i, kind in enumerate(signature.values()):
        known = [["tt.divisibility", 16]] if _ALIGNED in kind else []
        if _SMALL in kind and gpu.backend == "hip":  # as Triton's launcher does on AMD
            known.append(["tt.pointer_range", 32])
        if known:
            facts[(i,)] = known
    compiled = triton.compile(
        ASTSource(kernel, types, dict(constants), facts), target=gpu, options={"num_warps": num_warps, **options}
    )
    text = compiled.asm["amdgcn" if gpu.backend == "hip" else "ptx"]
    binary = b"" if gpu.backend == "hip" else compiled.asm["cubin"]
    usage = _usage(compiled, gpu)
    return KernelReport(kernel.__name__, target, num_warps, *usage, compiled.metadata.shared, text, binary)


def _type_of(value: Tensor | int | None) -> str:
    if value is None:
        return "constexpr"
    if isinstance(value, Tensor):
        small = value.numel() * value.element_size() < 2**31
        return _POINTERS[value.dtype] + _ALIGNED + (_SMALL if small else "")  # allocations are aligned
    kind = "i32" if -(2**31) <= value < 2**31 else "i64"
    return kind + (_ALIGNED if value % 16 == 0 else "")


def _usage(compiled: Any, gpu: GPUTarget) -> tuple[int, int, int]:
    """(registers, spilled bytes, scalar spills) per thread, from the machine code's own resource table."""
    if gpu.backend == "hip":
        table = compiled.asm["amdgcn"]
        # Scratch is all memory that a thread has of its own; spilled vector registers are in it.
        spilled = 4 * _number(r"\.vgpr_spill_count:\s*(\d+)", table)
        scratch = _number(r"\.private_segment_fixed_size:\s*(\d+)", table)
        scalars = _number(r"\.sgpr_spill_count:\s*(\d+)", table)
        return _number(r"\.vgpr_count:\s*(\d+)", table), max(spilled, scratch), scalars
    table = _dump(compiled.asm["cubin"], "--dump-resource-usage")
    # ptxas puts spilled registers on the stack; these kernels have no other use for one.
    return _number(r"REG:(\d+)", table), _number(r"STACK:(\d+)", table) + _number(r"LOCAL:(\d+)", table), 0


def _dump(cubin: bytes, what: str) -> str:
    """What NVIDIA's tool, which Triton brings with it, says of compiled code."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, what, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in the compiler's resource table; is this version of Triton supported?")
    return int(found[1])
