"""The nine points of a deformable sum in compiled CPU kernels: one per lane, so that all positions are one vector.

The lanes after the ninth repeat the last point.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from visionssm.kernels.cpu.math import (
    LANES,
    emits,
    ir_constant,
    ir_float,
    ir_int_lanes,
    ir_lanes,
    ir_pointer,
    vector,
)
from visionssm.kernels.deformable_sum.reference import KERNEL, POINTS

_ALIGN = 4
_LAST = POINTS - 1  # lane of the point that does not fit into eight
_int = ir.IntType(32)
_ir_eight = ir.VectorType(ir_float, _LAST)


def _lane(number: int) -> ir.Constant:
    return ir.Constant(_int, number)


def _point(lane: int) -> int:
    return min(lane, _LAST)


def _at(builder: ir.IRBuilder, address: ir.Value, index: int, type_: ir.Type) -> ir.Value:
    place = ir_pointer(builder, address, ir.Constant(ir.IntType(64), index), ir_float)
    return builder.bitcast(place, type_.as_pointer())


def _repeated(builder: ir.IRBuilder, number: ir.Value, type_: ir.Type = ir_int_lanes) -> ir.Value:
    one = builder.insert_element(ir.Constant(type_, ir.Undefined), number, _lane(0))
    return builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), ir.Constant(ir_int_lanes, [0] * LANES))


def _coordinate(builder: ir.IRBuilder, address: ir.Value, second: int, steps: list[int]) -> ir.Value:
    """Every second of the 18 floats at an address, which two vectors cover without reading on, plus the steps."""
    low, high = (builder.load(_at(builder, address, start, ir_lanes), align=_ALIGN) for start in (0, 2))
    floats = [2 * _point(lane) + second for lane in range(LANES)]
    lanes = [i if i < LANES else LANES + i - 2 for i in floats]
    offset = builder.shuffle_vector(low, high, ir.Constant(ir_int_lanes, lanes))
    step = ir.Constant(ir_lanes, [float(steps[_point(lane)] - KERNEL // 2) for lane in range(LANES)])
    return builder.fadd(step, offset)


@emits(vector, types.intp)
def moved_x(_: Any, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """p + offset along x, of the (9, 2) offsets at an address."""
    return _coordinate(builder, address, 0, [point // KERNEL for point in range(POINTS)])


@emits(vector, types.intp)
def moved_y(_: Any, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """p + offset along y, of the (9, 2) offsets at an address."""
    return _coordinate(builder, address, 1, [point % KERNEL for point in range(POINTS)])


@emits(vector, types.intp)
def load_points(_: Any, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """A number per point."""
    eight = builder.load(_at(builder, address, 0, _ir_eight), align=_ALIGN)
    last = builder.load(_at(builder, address, _LAST, ir_float), align=_ALIGN)
    other = builder.insert_element(ir.Constant(_ir_eight, ir.Undefined), last, _lane(0))
    return builder.shuffle_vector(eight, other, ir.Constant(ir_int_lanes, [_point(lane) for lane in range(LANES)]))


@emits(types.void, types.intp, vector)
def store_points(context: Any, builder: ir.IRBuilder, address: ir.Value, x: ir.Value) -> ir.Value:
    """Write a number per point."""
    eight = builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(_int, _LAST), [*range(_LAST)]))
    builder.store(eight, _at(builder, address, 0, _ir_eight), align=_ALIGN)
    builder.store(builder.extract_element(x, _lane(_LAST)), _at(builder, address, _LAST, ir_float), align=_ALIGN)
    return context.get_dummy_value()


@emits(types.void, types.intp, vector, vector)
def store_pairs(context: Any, builder: ir.IRBuilder, address: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """Write (x, y) per point."""
    lanes = [lane // 2 + lane % 2 * LANES for lane in range(LANES)]
    builder.store(
        builder.shuffle_vector(x, y, ir.Constant(ir_int_lanes, lanes)), _at(builder, address, 0, ir_lanes), align=_ALIGN
    )
    for i, coordinate in enumerate((x, y)):
        last = builder.extract_element(coordinate, _lane(_LAST))
        builder.store(last, _at(builder, address, LANES + i, ir_float), align=_ALIGN)
    return context.get_dummy_value()


@emits(types.void, types.intp, vector, vector, types.intp, types.intp)
def store_pixels(
    context: Any,
    builder: ir.IRBuilder,
    address: ir.Value,
    x: ir.Value,
    y: ir.Value,
    width: ir.Value,
    height: ir.Value,
) -> ir.Value:
    """Write the numbers of the pixels at whole x and y as sixteen int32, −1 where there is none."""
    inside = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [True] * LANES)
    for coordinate, size in ((x, width), (y, height)):
        end = _repeated(builder, builder.sitofp(size, ir_float), ir_lanes)
        inside = builder.and_(inside, builder.fcmp_ordered(">=", coordinate, ir_constant(0.0)))
        inside = builder.and_(inside, builder.fcmp_ordered("<", coordinate, end))
    # NaN and numbers too large for an integer convert to arbitrary integers; those lanes are not selected.
    row, column = (builder.fptosi(coordinate, ir_int_lanes) for coordinate in (y, x))
    pixel = builder.add(builder.mul(row, _repeated(builder, builder.trunc(width, _int))), column)
    pixel = builder.select(inside, pixel, ir_constant(-1, _int))
    builder.store(pixel, _at(builder, address, 0, ir_int_lanes), align=_ALIGN)
    return context.get_dummy_value()


@emits(vector, vector, vector)
def smaller(_: Any, builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The smaller of two numbers; y where x is none."""
    return builder.select(builder.fcmp_ordered("<", x, y), x, y)


@emits(vector, vector, vector)
def larger(_: Any, builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The larger of two numbers; y where x is none."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)
