"""Complex numbers in compiled CPU kernels: eight of them are sixteen lanes, real and imaginary parts alternating."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from visionssm.kernels.cpu.math import LANES, emits, ir_constant, ir_int_lanes, vector


def _rearranged(builder: ir.IRBuilder, x: ir.Value, lanes: list[int]) -> ir.Value:
    return builder.shuffle_vector(x, x, ir.Constant(ir_int_lanes, lanes))


@emits(vector, vector)
def swapped(_: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """(re, im) pairs to (im, re) pairs."""
    return _rearranged(builder, x, [lane ^ 1 for lane in range(LANES)])


@emits(vector, vector)
def real_twice(_: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """(re, im) pairs to (re, re) pairs."""
    return _rearranged(builder, x, [lane & ~1 for lane in range(LANES)])


@emits(vector, vector)
def imaginary_crossed(_: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """(re, im) pairs to (−im, im) pairs: x·h = real_twice(x) h + imaginary_crossed(x) swapped(h)."""
    signs = ir.Constant(ir_constant(1.0).type, [-1.0 if lane % 2 == 0 else 1.0 for lane in range(LANES)])
    return builder.fmul(_rearranged(builder, x, [lane | 1 for lane in range(LANES)]), signs)
