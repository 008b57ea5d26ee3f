"""Rows of bfloat16 and float16 numbers for compiled CPU kernels, which compute in float32.

A kernel converts one row at a time: to float32 when it reads it, and back when it writes the finished sum. So no map is
ever converted as a whole, and every sum is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import binding, ir
from numba.core import types

from visionssm.kernels.cpu.blocks import copy
from visionssm.kernels.cpu.math import (
    LANES,
    emits,
    inlined,
    ir_float,
    ir_pointer,
    load,
    put,
    scalar,
    store,
    vector,
)

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
BFLOAT16 = FORMATS[torch.bfloat16]
_UNALIGNED = 2
_half, _bits16, _bits32 = ir.HalfType(), ir.IntType(16), ir.IntType(32)

# mypy: disable-error-code="no-untyped-def"


def _machine_knows_float16() -> bool:
    """Whether this processor converts float16; elsewhere LLVM calls a function that no library here has."""
    return binding.get_process_triple().startswith(("aarch64", "arm64")) or bool(
        binding.get_host_cpu_features().get("f16c", False)
    )


def readable(dtype: torch.dtype) -> bool:
    """Whether kernels read and write this format themselves."""
    return dtype in FORMATS and (dtype != torch.float16 or _machine_knows_float16())


def _typed(type_: ir.Type, lanes: int) -> ir.Type:
    return type_ if lanes == 1 else ir.VectorType(type_, lanes)


def _same(type_: ir.Type, lanes: int, value: Any) -> ir.Constant:
    return ir.Constant(_typed(type_, lanes), value if lanes == 1 else [value] * lanes)


def _place(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, type_: ir.Type, lanes: int) -> ir.Value:
    return builder.bitcast(ir_pointer(builder, address, index, type_), _typed(type_, lanes).as_pointer())


def _read_bfloat16(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, lanes: int) -> ir.Value:
    """The upper half of a float32's bits."""
    bits = builder.load(_place(builder, address, index, _bits16, lanes), align=_UNALIGNED)
    wide = builder.shl(builder.zext(bits, _typed(_bits32, lanes)), _same(_bits32, lanes, 16))
    return builder.bitcast(wide, _typed(ir_float, lanes))


def _write_bfloat16(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value, lanes: int) -> None:
    """To the nearest, ties to even; a NaN stays one."""
    bits = builder.bitcast(value, _typed(_bits32, lanes))
    sixteen = _same(_bits32, lanes, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _same(_bits32, lanes, 1))
    rounded = builder.lshr(builder.add(builder.add(bits, _same(_bits32, lanes, 0x7FFF)), odd), sixteen)
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), _same(_bits32, lanes, 0x7FC0), rounded)
    place = _place(builder, address, index, _bits16, lanes)
    builder.store(builder.trunc(rounded, _typed(_bits16, lanes)), place, align=_UNALIGNED)


def _read_float16(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, lanes: int) -> ir.Value:
    value = builder.load(_place(builder, address, index, _half, lanes), align=_UNALIGNED)
    return builder.fpext(value, _typed(ir_float, lanes))


def _write_float16(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value, lanes: int) -> None:
    """To the nearest, ties to even; what is too large becomes infinite, as in torch."""
    place = _place(builder, address, index, _half, lanes)
    builder.store(builder.fptrunc(value, _typed(_half, lanes)), place, align=_UNALIGNED)


@emits(vector, types.intp, types.intp)
def load_bfloat16(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """Sixteen bfloat16 numbers from `index` on."""
    return _read_bfloat16(builder, address, index, LANES)


@emits(types.float32, types.intp, types.intp)
def scalar_bfloat16(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """One bfloat16 number."""
    return _read_bfloat16(builder, address, index, 1)


@emits(vector, types.intp, types.intp)
def load_float16(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """Sixteen float16 numbers from `index` on."""
    return _read_float16(builder, address, index, LANES)


@emits(types.float32, types.intp, types.intp)
def scalar_float16(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """One float16 number."""
    return _read_float16(builder, address, index, 1)


@emits(types.void, types.intp, types.intp, vector)
def store_bfloat16(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, x: ir.Value) -> ir.Value:
    """Round sixteen numbers and write them from `index` on."""
    _write_bfloat16(builder, address, index, x, LANES)
    return context.get_dummy_value()


@emits(types.void, types.intp, types.intp, types.float32)
def put_bfloat16(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, x: ir.Value) -> ir.Value:
    """Round and write one number."""
    _write_bfloat16(builder, address, index, x, 1)
    return context.get_dummy_value()


@emits(types.void, types.intp, types.intp, vector)
def store_float16(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, x: ir.Value) -> ir.Value:
    """Round sixteen numbers and write them from `index` on."""
    _write_float16(builder, address, index, x, LANES)
    return context.get_dummy_value()


@emits(types.void, types.intp, types.intp, types.float32)
def put_float16(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, x: ir.Value) -> ir.Value:
    """Round and write one number."""
    _write_float16(builder, address, index, x, 1)
    return context.get_dummy_value()


@inlined
def item_size(kind):
    """Bytes of a number."""
    return 4 if kind == 0 else 2


@inlined
def widen(source, target, count, kind):
    """Copy `count` numbers of a format of `FORMATS` to float32."""
    whole = count - count % LANES
    if kind == 0:
        copy(source, target, count)
    elif kind == BFLOAT16:
        for i in range(0, whole, LANES):
            store(target, i, load_bfloat16(source, i))
        for i in range(whole, count):
            put(target, i, scalar_bfloat16(source, i))
    else:
        for i in range(0, whole, LANES):
            store(target, i, load_float16(source, i))
        for i in range(whole, count):
            put(target, i, scalar_float16(source, i))


@inlined
def narrow(source, target, count, kind):
    """Round `count` float32 numbers to a format of `FORMATS`."""
    whole = count - count % LANES
    if kind == 0:
        copy(source, target, count)
    elif kind == BFLOAT16:
        for i in range(0, whole, LANES):
            store_bfloat16(target, i, load(source, i))
        for i in range(whole, count):
            put_bfloat16(target, i, scalar(source, i))
    else:
        for i in range(0, whole, LANES):
            store_float16(target, i, load(source, i))
        for i in range(whole, count):
            put_float16(target, i, scalar(source, i))
