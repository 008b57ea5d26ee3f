"""Execute compiled PTX on the CPU, thread by thread in lockstep, and count the memory that it touches.

What a Triton kernel reads and writes is decided by the compiler as much as by the source: which threads repeat a load,
how wide it is, how often a loop runs. This interpreter runs the very instructions that a GPU would be given, on real
tensors, so that traffic, arithmetic and results of compiled kernels are known where there is no GPU.

It knows the instructions that elementwise kernels, scans, reductions and products of small matrices compile to;
branches must be taken by all threads of a block together. Whatever it does not know, it refuses. (NVIDIA, PTX ISA 8.8)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from visionssm.benchmarks.ptx_instructions import (
    OPERATIONS,
    WARP,
    Instruction,
    OutOfBoundsError,
    UnsupportedInstructionError,
)

_FIRST_ADDRESS = 1 << 20
_GAP = 1 << 12  # bytes between tensors, in which every access is an error
_REGISTER = re.compile(r"%(rd|rs|p|r|f|fd|h)\d+")


@dataclass
class Trace:
    """What executed programs did.

    Keys of the bytes are (`load`, `store` or `atomic`, name of the tensor). `executed`: how often a thread ran each
    instruction, by its name.
    """

    requested: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Bytes that instructions ask for; threads of a warp that ask for the same ones in one instruction count once."""
    distinct: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Different bytes of each program, summed over programs: what reaches it if its cache serves its repeats."""
    executed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Program:
    """Parsed PTX of one kernel."""

    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]
    parameters: int
    threads: int


@lru_cache(64)
def parse(text: str) -> Program:
    """Parse the one kernel in a PTX file."""
    threads = re.search(r"\.reqntid\s+(\d+)", text)
    head = re.search(r"\.entry\s+\w+\((.*?)\)", text, re.DOTALL)
    if threads is None or head is None:
        raise UnsupportedInstructionError("the text holds no kernel with a fixed number of threads")
    body = text[text.index("{", head.end()) : text.rindex("}")]
    body = re.sub(r"//[^\n]*", "", body)
    body = re.sub(r"(?m)^\s*\.(loc|file|reg|pragma)\b[^\n]*$", "", body)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for statement in body.split(";"):
        words = " ".join(statement.split()).lstrip("{} ")
        while label := re.match(r"(\$?\w+):\s*", words):
            labels[label[1]] = len(instructions)
            words = words[label.end() :].lstrip("{} ")
        if not words or words.startswith("."):
            continue
        guard = re.match(r"@(!?)(%p\d+)\s+", words)
        words = words[guard.end() :] if guard else words
        name, _, rest = words.partition(" ")
        operands = tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest))
        instructions.append(
            Instruction(
                name,
                tuple(name.replace("::cta", "").split(".")),
                tuple(o.strip() for o in operands),
                guard[2] if guard else None,
                bool(guard and guard[1]),
            )
        )
    return Program(tuple(instructions), labels, head[1].count(".param"), int(threads[1]))


class _Memory:
    """Tensors at made-up addresses, each in a gap that nothing may touch."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.names, self.address = list(tensors), {}
        starts, ends, self.buffers = [], [], []
        at = _FIRST_ADDRESS
        for name, x in tensors.items():
            size = _storage_bytes(x)
            self.address[name] = at
            starts.append(at)
            ends.append(at + size)
            self.buffers.append(_bytes_of(x, size))
            at = (at + size + _GAP) // 256 * 256
        self.starts, self.ends = np.array(starts, np.int64), np.array(ends, np.int64)

    def find(self, address: np.ndarray, width: int, name: str) -> tuple[int, np.ndarray]:
        """The tensor that all of the addresses lie in, and their offsets."""
        which = int(np.searchsorted(self.starts, address[0], "right")) - 1
        low, high = int(address.min()), int(address.max()) + width
        if which < 0 or low < self.starts[which] or high > self.ends[which]:
            raise OutOfBoundsError(f"{name} touches bytes {low} to {high}, which lie in no tensor")
        return which, address - self.starts[which]


def _storage_bytes(x: Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last, whatever its strides."""
    if x.numel() == 0:
        return 0
    return (sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1) * x.element_size()


def _bytes_of(x: Tensor, size: int) -> np.ndarray:
    flat = x.detach().as_strided((size // x.element_size(),), (1,))
    return flat.view(torch.uint8).numpy() if size else np.empty(0, np.uint8)


def run(
    text: str,
    arguments: Mapping[str, Tensor | int | None],
    programs: Iterable[int],
    *,
    shared_bytes: int,
) -> Trace:
    """Execute some programs (thread blocks) of a kernel on CPU tensors, which it changes as a GPU would.

    Args:
        text: PTX of the kernel, compiled for these arguments.
        arguments: all run-time arguments in order; None and 1 were compiled in and are skipped, as Triton does.
        programs: which programs of a one-dimensional grid run, one after the other.
        shared_bytes: shared memory of a program.

    Raises:
        UnsupportedInstructionError: an instruction is unknown, or the threads of a block part ways.
        OutOfBoundsError: memory outside the tensors is touched.
    """
    kernel = parse(text)
    given = {k: v for k, v in arguments.items() if v is not None and not (isinstance(v, int) and v == 1)}
    memory = _Memory({k: v for k, v in given.items() if isinstance(v, Tensor)})
    values = [memory.address[k] if isinstance(v, Tensor) else v for k, v in given.items()]
    values += [0] * (kernel.parameters - len(values))  # scratch memory, which these kernels do not ask for
    trace = Trace()
    with np.errstate(all="ignore"):
        for program in programs:
            Block(kernel, memory, values, program, shared_bytes, trace).run()
    return trace


class Block:
    """All threads of one program, in lockstep. A register is one array over the threads."""

    def __init__(
        self, kernel: Program, memory: _Memory, values: list[int], program: int, shared_bytes: int, trace: Trace
    ) -> None:
        self.kernel, self.memory, self.values, self.trace = kernel, memory, values, trace
        self.threads = kernel.threads
        self.registers: dict[str, np.ndarray] = {}
        self.shared = np.zeros(shared_bytes + 16, np.uint8)
        self.touched: dict[tuple[str, str], np.ndarray] = {}
        lane = np.arange(self.threads, dtype=np.uint32)
        self.warps, self.lane = lane // WARP, lane % WARP
        self.special = {"%ctaid.x": program, "%tid.x": lane, "%laneid": self.lane, "global_smem": 0}
        self.everyone = np.ones(self.threads, bool)

    def run(self) -> None:
        """Execute the program from its first instruction to its return."""
        self._walk()
        for key, bytes_ in self.touched.items():
            self.trace.distinct[key] += int(bytes_.sum())

    def touch(self, kind: str, tensor: str, index: np.ndarray, size: int) -> None:
        """Remember which bytes of a tensor the program has touched."""
        key = kind, tensor
        if key not in self.touched:
            self.touched[key] = np.zeros(size, bool)
        self.touched[key][index] = True

    def _walk(self) -> None:
        at, instructions = 0, self.kernel.instructions
        while at < len(instructions):
            one = instructions[at]
            active = self.everyone
            if one.guard is not None:
                active = self.registers[one.guard] != one.negated
            at += 1
            kind = one.parts[0]
            if kind in ("bra", "ret"):
                if active.all():
                    if kind == "ret":
                        return
                    at = self.kernel.labels[one.operands[0]]
                elif active.any():
                    raise UnsupportedInstructionError("threads of one block branch differently")
                continue
            self.trace.executed[one.name] += int(active.sum())
            operation = OPERATIONS.get(kind)
            if operation is None:
                raise UnsupportedInstructionError(f"{one.name} {', '.join(one.operands)}")
            operation(self, one, active)

    # ------------------------------------------------------------------------------------------------ registers

    def read(self, operand: str, dtype: np.dtype) -> np.ndarray:
        """An operand's value in each thread, its bits taken as `dtype`."""
        if operand in self.registers:
            x = self.registers[operand]
            if x.dtype == dtype:
                return x
            if x.dtype.itemsize == dtype.itemsize:
                return x.view(dtype)
            return x.astype(np.dtype(f"u{dtype.itemsize}")).view(dtype)
        if operand in self.special:
            return np.broadcast_to(np.asarray(self.special[operand]), self.threads).astype(dtype)
        if operand.startswith("-%"):
            return -self.read(operand[1:], dtype)
        if re.match(r"0[fF][0-9a-fA-F]{8}$", operand):
            bits = np.full(self.threads, int(operand[2:], 16), np.uint32)
            return bits.view(dtype) if dtype.itemsize == 4 else bits.view(np.float32).astype(dtype)
        try:
            number = int(operand.rstrip("U"), 0)
        except ValueError:
            raise UnsupportedInstructionError(f"operand {operand}") from None
        bits = np.full(self.threads, number & ((1 << 8 * dtype.itemsize) - 1), np.dtype(f"u{dtype.itemsize}"))
        return bits.view(dtype)

    def write(self, operand: str, value: np.ndarray, active: np.ndarray) -> None:
        if operand == "_":
            return
        if _REGISTER.fullmatch(operand) is None:
            raise UnsupportedInstructionError(f"result {operand}")
        if not active.all() and operand in self.registers:
            old = self.registers[operand]
            value = np.where(active, value, old if old.dtype == value.dtype else old.view(value.dtype))
        self.registers[operand] = value

    def address(self, operand: str, dtype: np.dtype) -> np.ndarray:
        base, _, offset = operand.strip("[] ").partition("+")
        return self.read(base.strip(), dtype).astype(np.int64) + int(offset or 0)
