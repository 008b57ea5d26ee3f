"""What the interpreter of PTX works on: instructions, memory, and the registers of all threads of one program."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

WARP = 32
_FIRST_ADDRESS = 1 << 20
_GAP = 1 << 12  # bytes between tensors, in which every access is an error
_REGISTER = re.compile(r"%(rd|rs|p|r|f|fd|h)\d+")


class UnsupportedInstructionError(NotImplementedError):
    """The interpreter does not know an instruction, or threads of one block part ways."""


class OutOfBoundsError(IndexError):
    """An instruction touches memory outside every tensor."""


@dataclass(frozen=True)
class Instruction:
    """One statement: `@!%p1 add.s32 %r1, %r2, 3` has the guard %p1, negated, and three operands."""

    name: str
    parts: tuple[str, ...]  # the name, cut at its dots
    operands: tuple[str, ...]
    guard: str | None
    negated: bool


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


class Memory:
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


class Block:
    """All threads of one program, in lockstep. A register is one array over the threads."""

    def __init__(
        self, kernel: Program, memory: Memory, values: list[int], program: int, shared_bytes: int, trace: Trace
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

    def touch(self, kind: str, tensor: str, index: np.ndarray, size: int) -> None:
        """Remember which bytes of a tensor the program has touched."""
        key = kind, tensor
        if key not in self.touched:
            self.touched[key] = np.zeros(size, bool)
        self.touched[key][index] = True

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
