"""The PTX instructions that `ptx.py` knows: each reads and writes registers or memory of all threads of a block."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from visionssm.benchmarks.ptx_block import WARP, Block, Instruction, OutOfBoundsError, UnsupportedInstructionError

_INTEGERS = {
    f"{kind}{bits}": np.dtype(f"{letter}{bits // 8}")
    for kind, letter in (("u", "u"), ("s", "i"), ("b", "u"))
    for bits in (8, 16, 32, 64)
}
_TYPES = {**_INTEGERS, "f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}


Operation = Callable[[Block, Instruction, np.ndarray], None]


# ------------------------------------------------------------------------------------------------- arithmetic


def _type(one: Instruction, which: int = -1) -> np.dtype:
    name = one.parts[which]
    if name not in _TYPES:
        raise UnsupportedInstructionError(one.name)
    return _TYPES[name]


def _elementwise(function: Callable[..., np.ndarray]) -> Operation:
    """An operation on numbers of the type that the instruction's name ends in; `f32x2` are two floats."""

    def operation(block: Block, one: Instruction, active: np.ndarray) -> None:
        if one.parts[-1] == "f32x2":
            pairs = [block.read(x, np.dtype("u8")).view("f4") for x in one.operands[1:]]
            result = np.ascontiguousarray(function(*pairs), dtype="f4").view("u8")
        else:
            dtype = _type(one)
            result = np.asarray(function(*(block.read(x, dtype) for x in one.operands[1:])), dtype=dtype)
        block.write(one.operands[0], result, active)

    return operation


def _fma(block: Block, one: Instruction, active: np.ndarray) -> None:
    """a·b + c rounded once; `fma.rn.f32.bf16` has factors of half precision."""
    if one.parts[2] == "f32" and len(one.parts) == 4:
        a, b = (_widened(block.read(x, np.dtype("u2")), one.parts[3]) for x in one.operands[1:3])
        c = block.read(one.operands[3], np.dtype("f4"))
        block.write(one.operands[0], _fused(a, b, c), active)
    else:
        _elementwise(_fused)(block, one, active)


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype("f8") * b.astype("f8") + c).astype("f4")


def _widened(bits: np.ndarray, half: str) -> np.ndarray:
    if half == "bf16":
        return (bits.astype("u4") << 16).view("f4")
    return bits.view("f2").astype("f4")


def _mul(block: Block, one: Instruction, active: np.ndarray) -> None:
    if one.parts[1] not in ("lo", "hi", "wide"):
        _elementwise(np.multiply)(block, one, active)
        return
    dtype = _type(one)
    a, b = (block.read(x, dtype) for x in one.operands[1:3])
    result = _product(a, b, one.parts[1])
    if one.parts[0] == "mad":
        result = (result + block.read(one.operands[3], result.dtype)).astype(result.dtype)
    block.write(one.operands[0], result, active)


def _product(a: np.ndarray, b: np.ndarray, part: str) -> np.ndarray:
    if part == "lo":
        return a * b
    if a.dtype.itemsize == 8:
        raise UnsupportedInstructionError(f"mul.{part} of 64 bits")
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    product = a.astype(wide) * b.astype(wide)
    return product if part == "wide" else (product >> (8 * a.dtype.itemsize)).astype(a.dtype)


def _shift(block: Block, one: Instruction, active: np.ndarray) -> None:
    dtype = _type(one)
    x, by = block.read(one.operands[1], dtype), block.read(one.operands[2], np.dtype("u4"))
    bits = 8 * dtype.itemsize
    inside = np.minimum(by, bits - 1).astype(dtype)
    result = x << inside if one.parts[0] == "shl" else x >> inside
    if dtype.kind == "u":
        result = np.where(by < bits, result, 0)
    block.write(one.operands[0], result.astype(dtype), active)


def _bit_field(block: Block, one: Instruction, active: np.ndarray) -> None:
    dtype = _type(one)
    x = block.read(one.operands[1], dtype)
    position, length = int(one.operands[2], 0), int(one.operands[3], 0)
    unused = 8 * dtype.itemsize - length
    block.write(one.operands[0], (x << dtype.type(unused - position)) >> dtype.type(unused), active)


def _permute(block: Block, one: Instruction, active: np.ndarray) -> None:
    """Any four of the eight bytes of two registers; a nibble's high bit repeats the byte's sign."""
    u4, u1 = np.dtype("u4"), np.dtype("u1")
    pair = np.stack([block.read(x, u4) for x in one.operands[1:3]], 1).view(u1)
    selector = int(one.operands[3].rstrip("U"), 0)
    result = np.empty((block.threads, 4), u1)
    for i in range(4):
        nibble = selector >> (4 * i) & 15
        byte = pair[:, nibble & 7]
        result[:, i] = np.where(byte & 128, 255, 0) if nibble & 8 else byte
    block.write(one.operands[0], result.view(u4).ravel(), active)


_COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
}  # fmt: skip


def _compare(block: Block, one: Instruction, active: np.ndarray) -> None:
    if len(one.parts) != 3 or one.parts[1] not in _COMPARISONS:
        raise UnsupportedInstructionError(one.name)
    a, b = (block.read(x, _type(one)) for x in one.operands[1:])
    block.write(one.operands[0], _COMPARISONS[one.parts[1]](a, b), active)


def _select(block: Block, one: Instruction, active: np.ndarray) -> None:
    a, b = (block.read(x, _type(one)) for x in one.operands[1:3])
    block.write(one.operands[0], np.where(block.registers[one.operands[3]], a, b), active)


def _logic(function: Callable[..., np.ndarray]) -> Operation:
    def operation(block: Block, one: Instruction, active: np.ndarray) -> None:
        if one.parts[-1] == "pred":
            values = [_predicate(block, x) for x in one.operands[1:]]
        else:
            values = [block.read(x, _type(one)) for x in one.operands[1:]]
        block.write(one.operands[0], function(*values), active)

    return operation


def _predicate(block: Block, operand: str) -> np.ndarray:
    if operand in block.registers:
        return block.registers[operand]
    return np.full(block.threads, int(operand, 0) != 0)


def _move(block: Block, one: Instruction, active: np.ndarray) -> None:
    target, source = one.operands
    if one.parts[-1] == "pred":
        block.write(target, _predicate(block, source), active)
        return
    dtype = _type(one)
    if source.startswith("{"):
        halves = _list(source)
        half = np.dtype(f"u{dtype.itemsize // len(halves)}")
        packed = np.stack([block.read(x, half) for x in halves], 1)
        block.write(target, np.ascontiguousarray(packed).view(f"u{dtype.itemsize}").ravel(), active)
    elif target.startswith("{"):
        halves = _list(target)
        half = np.dtype(f"u{dtype.itemsize // len(halves)}")
        for i, register in enumerate(halves):
            block.write(register, block.read(source, dtype).view(half).reshape(-1, len(halves))[:, i].copy(), active)
    else:
        block.write(target, block.read(source, dtype), active)


def _convert(block: Block, one: Instruction, active: np.ndarray) -> None:
    to, source = one.parts[-2], one.parts[-1]
    operand = one.operands[1]
    if one.name in ("cvt.rna.tf32.f32", "cvt.rn.bf16.f32", "cvt.rn.bf16x2.f32"):
        _round(block, one, active)
        return
    if source in ("bf16", "f16"):
        value = _widened(block.read(operand, np.dtype("u2")), source)
    elif source in _TYPES:
        value = block.read(operand, _TYPES[source])
    else:
        raise UnsupportedInstructionError(one.name)
    rounded = to in _INTEGERS and value.dtype.kind == "f"
    if to not in _TYPES or rounded:
        raise UnsupportedInstructionError(one.name)
    block.write(one.operands[0], value.astype(_TYPES[to]), active)


def _round(block: Block, one: Instruction, active: np.ndarray) -> None:
    """To tf32, ties away from zero; to bfloat16, ties to even, one number or two in a register (the second is low)."""
    bits = [block.read(x, np.dtype("u4")).astype("u8") for x in one.operands[1:]]
    if one.parts[2] == "tf32":
        result = (bits[0] + 0x1000) & 0xFFFFE000
        block.write(one.operands[0], result.astype("u4"), active)
        return
    halves = [(x + 0x7FFF + (x >> 16 & 1)) >> 16 for x in bits]
    if len(halves) == 1:
        block.write(one.operands[0], halves[0].astype("u2"), active)
    else:
        block.write(one.operands[0], (halves[0] << 16 | halves[1]).astype("u4"), active)


# ---------------------------------------------------------------------------------------------------------- memory


def _list(operand: str) -> list[str]:
    return [x.strip() for x in operand.strip("{} ").split(",")] if operand.startswith("{") else [operand]


def _load(block: Block, one: Instruction, active: np.ndarray) -> None:
    space, dtype = one.parts[1], _type(one)
    if space == "param":
        number = int(one.operands[1].strip("[]").rpartition("_")[2])
        bits = block.values[number] & ((1 << 8 * dtype.itemsize) - 1)
        value = np.full(block.threads, bits, f"u{dtype.itemsize}").view(dtype)
        if one.operands[0].startswith("%rd"):  # a 32-bit parameter in a 64-bit register is extended
            value = value.astype("i8")
        block.write(one.operands[0], value, active)
        return
    registers, width = _list(one.operands[0]), dtype.itemsize
    buffer, index = _locate(block, one, one.operands[1], width * len(registers), active, "load")
    for i, register in enumerate(registers):
        value = np.zeros(block.threads, dtype)
        if buffer is not None:
            value[active] = buffer[index[:, i * width : (i + 1) * width]].view(dtype).ravel()
        block.write(register, value, active)


def _store(block: Block, one: Instruction, active: np.ndarray) -> None:
    registers, dtype = _list(one.operands[1]), _type(one)
    buffer, index = _locate(block, one, one.operands[0], dtype.itemsize * len(registers), active, "store")
    if buffer is not None:
        values = np.stack([block.read(x, dtype)[active] for x in registers], 1)
        buffer[index] = values.view("u1").reshape(index.shape)


def _atomic_add(block: Block, one: Instruction, active: np.ndarray) -> None:
    if one.parts[1] != "global" or "add" not in one.parts or one.parts[-1] != "f32":
        raise UnsupportedInstructionError(one.name)
    results = [] if one.parts[0] == "red" else _list(one.operands[0])
    address, operand = one.operands[-2:]
    registers = _list(operand)
    buffer, index = _locate(block, one, address, 4 * len(registers), active, "atomic")
    if buffer is None:
        return
    for i, register in enumerate(registers):
        words = index[:, 4 * i] // 4
        old = np.zeros(block.threads, "f4")
        old[active] = buffer.view("f4")[words]
        np.add.at(buffer.view("f4"), words, block.read(register, np.dtype("f4"))[active])
        if results:
            block.write(results[i], old, active)


def _locate(
    block: Block, one: Instruction, operand: str, width: int, active: np.ndarray, kind: str
) -> tuple[Any, np.ndarray]:
    """The memory that active threads touch and the index of each of their bytes, (threads, width); counts them."""
    if not active.any():
        return None, np.empty((0, width), np.int64)
    each = np.arange(width)
    if one.parts[1] == "shared":
        return block.shared, block.address(operand, np.dtype("u4"))[active][:, None] + each
    if one.parts[1] != "global":
        raise UnsupportedInstructionError(one.name)
    address = block.address(operand, np.dtype("u8"))[active]
    which, offset = block.memory.find(address, width, one.name)
    if (offset % width).any():
        raise OutOfBoundsError(f"{one.name} is not aligned to its {width} bytes")
    index = offset[:, None] + each
    warp_and_place = block.warps[active].astype(np.int64) << 40 | offset
    tensor = block.memory.names[which]
    block.trace.requested[kind, tensor] += len(np.unique(warp_and_place)) * width
    block.touch(kind, tensor, index, len(block.memory.buffers[which]))
    return block.memory.buffers[which], index


def _matrix(block: Block, one: Instruction, active: np.ndarray) -> None:
    """ldmatrix, stmatrix: 8×8 blocks of half-words, of which thread t of a warp has two neighbours in row t/4.

    `trans`: in column t/4 instead.
    """
    if not active.all() or "m8n8" not in one.parts:
        raise UnsupportedInstructionError(one.name)
    load = one.parts[0] == "ldmatrix"
    target, source = one.operands
    registers = _list(target if load else source)
    rows = block.address(source if load else target, np.dtype("u4")).reshape(-1, WARP)  # a row from each thread
    lane = np.arange(WARP)
    for i, register in enumerate(registers):
        if "trans" in one.parts:
            pair = [rows[:, 8 * i + 2 * (lane % 4) + k] + 2 * (lane // 4) for k in (0, 1)]
            place = np.concatenate([x.ravel()[:, None] + np.arange(2) for x in pair], 1)
        else:
            place = (rows[:, 8 * i + lane // 4] + 4 * (lane % 4)).ravel()[:, None] + np.arange(4)
        if load:
            block.write(register, block.shared[place].view("u4").ravel(), active)
        else:
            block.shared[place] = block.read(register, np.dtype("u4"))[:, None].view("u1")


def _multiply_matrices(block: Block, one: Instruction, active: np.ndarray) -> None:
    """mma.sync: (16, k) @ (k, 8) + (16, 8) of a warp, k in halves (two a register) or in tf32 numbers."""
    shape, (to, left, right, added) = one.parts[3], one.parts[6:]
    width = {"bf16": 2, "f16": 2, "tf32": 1}.get(left)
    sizes = re.fullmatch(r"m16n8k(\d+)", shape)
    if width is None or sizes is None or left != right or (to, added) != ("f32", "f32") or not active.all():
        raise UnsupportedInstructionError(one.name)
    group, of_group = np.arange(WARP) // 4, np.arange(WARP) % 4
    depth = int(sizes[1])
    warps = block.threads // WARP
    a, b, c = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8)), np.zeros((warps, 16, 8))

    def factors(register: str) -> list[np.ndarray]:
        bits = block.read(register, np.dtype("u4"))
        if width == 1:
            return [(bits & np.uint32(0xFFFFE000)).view("f4").reshape(warps, WARP)]
        halves = np.ascontiguousarray(bits).view("u2").reshape(warps, WARP, 2)
        return [_widened(np.ascontiguousarray(halves[:, :, i]), left) for i in (0, 1)]

    for i, register in enumerate(_list(one.operands[1])):
        for j, value in enumerate(factors(register)):
            a[:, group + 8 * (i % 2), width * (of_group + 4 * (i // 2)) + j] = value
    for i, register in enumerate(_list(one.operands[2])):
        for j, value in enumerate(factors(register)):
            b[:, width * (of_group + 4 * i) + j, group] = value
    for i, register in enumerate(_list(one.operands[3])):
        value = block.read(register, np.dtype("f4")).reshape(warps, WARP)
        c[:, group + 8 * (i // 2), 2 * of_group + i % 2] = value
    c += a @ b
    for i, register in enumerate(_list(one.operands[0])):
        value = c[:, group + 8 * (i // 2), 2 * of_group + i % 2]
        block.write(register, value.ravel().astype("f4"), active)


def _shuffle(block: Block, one: Instruction, active: np.ndarray) -> None:
    target, source, by, clamp, _ = one.operands
    x, by_lane, limit = block.read(source, np.dtype("u4")), block.read(by, np.dtype("i4")), int(clamp, 0)
    lane = block.lane.astype(np.int64)
    if limit & ~31:
        raise UnsupportedInstructionError(f"{one.name} within parts of a warp")
    if one.parts[2] == "up":
        other, valid = lane - by_lane, lane - by_lane >= limit
    elif one.parts[2] == "bfly":
        other, valid = lane ^ by_lane, (lane ^ by_lane) <= limit
    elif one.parts[2] == "down":
        other, valid = lane + by_lane, lane + by_lane <= limit
    else:
        other, valid = by_lane & 31, (by_lane & 31) <= limit
    from_thread = np.where(valid, block.warps.astype(np.int64) * WARP + other, np.arange(block.threads))
    block.write(target, x[from_thread], active)


def _nothing(block: Block, one: Instruction, active: np.ndarray) -> None:
    """A barrier: threads are in lockstep anyway."""


OPERATIONS: dict[str, Operation] = {
    "add": _elementwise(np.add),
    "sub": _elementwise(np.subtract),
    "mul": _mul,
    "mad": _mul,
    "fma": _fma,
    "div": _elementwise(np.divide),
    "rcp": _elementwise(np.reciprocal),
    "sqrt": _elementwise(np.sqrt),
    "ex2": _elementwise(np.exp2),
    "lg2": _elementwise(np.log2),
    "abs": _elementwise(np.abs),
    "neg": _elementwise(np.negative),
    "min": _elementwise(np.fmin),
    "max": _elementwise(np.fmax),
    "and": _logic(np.bitwise_and),
    "or": _logic(np.bitwise_or),
    "xor": _logic(np.bitwise_xor),
    "not": _logic(np.invert),
    "shl": _shift,
    "shr": _shift,
    "bfe": _bit_field,
    "prmt": _permute,
    "setp": _compare,
    "selp": _select,
    "mov": _move,
    "cvt": _convert,
    "ld": _load,
    "st": _store,
    "atom": _atomic_add,
    "red": _atomic_add,
    "ldmatrix": _matrix,
    "stmatrix": _matrix,
    "mma": _multiply_matrices,
    "shfl": _shuffle,
    "bar": _nothing,
    "membar": _nothing,
}
