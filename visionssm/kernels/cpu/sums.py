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
