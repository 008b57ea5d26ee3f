"""Sums of sixteen vectors at once in compiled CPU kernels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from visionssm.kernels.cpu.math import LANES, emits, ir_float, ir_int_lanes, ir_lanes, ir_pointer, vector


@emits(vector, types.intp)
def sums_of_rows(_: Any, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The sum of each of sixteen neighbouring rows of sixteen floats, in one vector.

    Rows are added in pairs that share a vector: 15 additions and 30 shuffles, where sixteen single sums would take 64
    of each.
    """
    rows = []
    for i in range(LANES):
        place = ir_pointer(builder, address, ir.Constant(ir.IntType(64), i * LANES), ir_float)
        rows.append(([i], builder.load(builder.bitcast(place, ir_lanes.as_pointer()), align=4)))
    while len(rows) > 1:  # a vector holds the parts of several sums, `width` lanes each
        width = LANES // len(rows[0][0])
        low: list[int] = []
        high: list[int] = []
        for start in range(0, 2 * LANES, width):
            low += range(start, start + width // 2)
            high += range(start + width // 2, start + width)
        half = len(rows) // 2
        rows = [
            (
                rows[i][0] + rows[i + half][0],
                builder.fadd(
                    builder.shuffle_vector(rows[i][1], rows[i + half][1], ir.Constant(ir_int_lanes, low)),
                    builder.shuffle_vector(rows[i][1], rows[i + half][1], ir.Constant(ir_int_lanes, high)),
                ),
            )
            for i in range(half)
        ]
    numbers, sums = rows[0]
    in_order = [numbers.index(i) for i in range(LANES)]
    return builder.shuffle_vector(sums, sums, ir.Constant(ir_int_lanes, in_order))


@emits(vector, vector, vector, vector, vector)
def sums_by_four(_: Any, builder: ir.IRBuilder, x0: ir.Value, x1: ir.Value, x2: ir.Value, x3: ir.Value) -> ir.Value:
    """Of each of four vectors, every fourth lane added: lanes 4i to 4i+3 are what is left of vector i."""
    low = [*range(8), *range(LANES, LANES + 8)]  # halves of two vectors, side by side
    high = [i + 8 for i in low]
    first, second = _pairs(builder, x0, x1, low, high), _pairs(builder, x2, x3, low, high)
    even = [i for start in range(0, 2 * LANES, 8) for i in range(start, start + 4)]  # every other quarter of both
    return _pairs(builder, first, second, even, [i + 4 for i in even])


def _pairs(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, some: list[int], others: list[int]) -> ir.Value:
    """Some lanes of two vectors, and others of them, added."""
    parts = (builder.shuffle_vector(x, y, ir.Constant(ir_int_lanes, lanes)) for lanes in (some, others))
    return builder.fadd(*parts)


@emits(types.void, types.intp, types.intp, vector)
def add_four(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, x: ir.Value) -> ir.Value:
    """Add the sum of lanes 4i to 4i+3 to the float at index + i, for i from 0 to 3."""
    four = ir.VectorType(ir.IntType(32), 4)
    parts = [builder.shuffle_vector(x, x, ir.Constant(four, [i, i + 4, i + 8, i + 12])) for i in range(4)]
    sums = builder.fadd(builder.fadd(parts[0], parts[1]), builder.fadd(parts[2], parts[3]))
    place = ir_pointer(builder, address, index, ir_float)
    place = builder.bitcast(place, ir.VectorType(ir_float, 4).as_pointer())
    builder.store(builder.fadd(builder.load(place, align=4), sums), place, align=4)
    return context.get_dummy_value()
