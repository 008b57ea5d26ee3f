"""Sixteen float32 lanes as a value in compiled CPU kernels: arithmetic, floor, exp2, softplus, sums.

Numba vectorises loops when it can prove them safe, and falls back to one lane silently when it cannot. Kernels here
say what they mean instead: `load` sixteen neighbouring floats, compute on them, `store` them. LLVM turns a sixteen-lane
value into one AVX-512 register, two AVX2 or four NEON registers.

Memory is addressed by integers: the byte address of a float32 (or int32) array, and an index in elements. Whoever
passes an address keeps its array alive. Functions of this module can only be called from kernels (see `cpu.kernel`).
"""

from __future__ import annotations

import inspect
import operator
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from visionssm.kernels.cpu import stepping

LANES = 16
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

_Function = TypeVar("_Function", bound=Callable[..., Any])


def inlined(function: _Function) -> _Function:
    """A helper that only kernels call; LLVM puts it into its callers."""
    jit: Any = numba.njit(forceinline=True, error_model="numpy")
    return jit(function)


class _Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = _Float32x16()
ir_float = ir.FloatType()
ir_lanes = ir.VectorType(ir_float, LANES)
ir_int_lanes = ir.VectorType(ir.IntType(32), LANES)
WORD = struct.calcsize("P")  # bytes of an address
_word = ir.IntType(8 * WORD)
_UNALIGNED = 4


@register_model(_Float32x16)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, ir_lanes)


def emits(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function for compiled code of one that emits its instructions: emit(context, builder, *values)."""

    def decorate(emit: Callable[..., Any]) -> Callable[..., Any]:
        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return getattr(stepping, emit.__name__)  # type: ignore[no-any-return]

        def codegen(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
            return emit(context, builder, *values)

        def typed(_: Any, *__: Any) -> Any:
            return signature(result, *arguments), codegen

        typed.__name__, typed.__doc__, typed.__module__ = emit.__name__, emit.__doc__, emit.__module__
        context, _, *values = inspect.signature(emit).parameters.values()
        typed.__signature__ = inspect.Signature([context, *values])  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate


def _add_operator(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class Typing(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], _: Any) -> Any:
            return signature(vector, vector, vector) if args == (vector, vector) else None

    @lower_builtin(symbol, vector, vector)
    def lower(_: Any, builder: ir.IRBuilder, __: Any, values: Any) -> Any:
        return getattr(builder, instruction)(*values, flags=("contract",))


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _add_operator(_symbol, _instruction)


# --- pieces of instructions -------------------------------------------------------------------------------------------


def ir_pointer(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, element: ir.Type) -> ir.Value:
    base = builder.inttoptr(address, element.as_pointer())
    return builder.gep(base, [index])


def ir_constant(value: float | int, element: ir.Type = ir_float) -> ir.Value:
    return ir.Constant(ir.VectorType(element, LANES), [value] * LANES)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
    function_type = ir.FunctionType(result, [value.type for value in values])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, values)


def _multiply_add(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    # fmuladd fuses where the processor can, and never calls the C library's exact fma as llvm.fma would elsewhere.
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", ir_lanes, x, y, z)


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    result = ir_constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = _multiply_add(builder, result, x, ir_constant(coefficient))
    return result


def _larger(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_unordered(">", x, y), x, y)  # x if it is not a number


def _has_avx512(context: Any) -> bool:
    features = f",{context.codegen()._tm_features},"
    return ",+avx512f," in features and ",+avx512dq," in features


# Minimax polynomials of the relative error. 2^x on [−1/2, 1/2], held at 1 for x = 0 so that slow decays do not drift:
# 9.1e-8; log(1 + x)/x on [0, 1]: 7.4e-10.
_EXP2 = (1.0, 0.6931469775983553, 0.24022242084015594, 0.05550733743811499, 0.00967151272875595, 0.001326472730272024)
_LOG1P = (0.9999999992568214, -0.4999998143364492, 0.333325596260864, -0.24987270884389207, 0.1989074783369313,
          -0.16105691925435728, 0.12418436904247915, -0.08244176303666342, 0.04147823516837814, -0.013407533492610797,
          0.0020302419735761996)  # fmt: skip


def _exp2(context: Any, builder: ir.IRBuilder, x: ir.Value, remainder: ir.Value | None = None) -> ir.Value:
    """2^(x + remainder) for a remainder far below 1; 0 (or below 2e-38) under the range."""

    if _has_avx512(context):
        lanes_on, rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
        to_nearest = ir.Constant(ir.IntType(32), 0)
        fraction = _call(builder, "llvm.x86.avx512.mask.reduce.ps.512", ir_lanes, x, to_nearest, x, lanes_on, rounding)
        whole = builder.fsub(x, fraction)
        power = _polynomial(builder, fraction if remainder is None else builder.fadd(fraction, remainder), _EXP2)
        return _call(builder, "llvm.x86.avx512.mask.scalef.ps.512", ir_lanes, power, whole, power, lanes_on, rounding)
    x = _larger(builder, x, ir_constant(-126.0))
    x = builder.select(builder.fcmp_unordered("<", x, ir_constant(127.5)), x, ir_constant(127.5))
    # Adding 1.5·2^23 rounds to an integer and leaves that integer in the low bits.
    magic = ir_constant(12582912.0)
    shifted = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(shifted, magic))
    power = _polynomial(builder, fraction if remainder is None else builder.fadd(fraction, remainder), _EXP2)
    exponent = builder.shl(builder.bitcast(shifted, ir_int_lanes), ir_constant(23, ir.IntType(32)))
    return builder.bitcast(builder.add(builder.bitcast(power, ir_int_lanes), exponent), ir_lanes)


def _exp_of_minus_magnitude(context: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^−|x|, also accurate where x·log2(e) is too large for float32 to hold its fraction."""
    sign = ir_constant(-0x80000000, ir.IntType(32))
    negative = builder.bitcast(builder.or_(builder.bitcast(x, ir_int_lanes), sign), ir_lanes)
    # e^−128 is 0 in float32; keeps −inf out of the remainder.
    negative = _larger(builder, negative, ir_constant(-128.0))
    product = builder.fmul(negative, ir_constant(LOG2_E))
    lost = _multiply_add(builder, negative, ir_constant(LOG2_E), builder.fneg(product))
    lost = _multiply_add(builder, negative, ir_constant(LOG2_E - float(np.float32(LOG2_E))), lost)
    return _exp2(context, builder, product, lost)


# The tail of the normal distribution by Abramowitz and Stegun 1964, formula 7.1.26: erfc(x) = P(t)·e^−x² with
# t = 1/(1 + 0.3275911·x) for x ≥ 0, to 1.5e-7. Halved here, and in x/√2.
_TAIL_STEP = 0.3275911 * 0.5**0.5
_TAIL = tuple(0.5 * x for x in (0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
_NO_TAIL = 15.0  # from where the tail is 0 in float32


# --- memory -----------------------------------------------------------------------------------------------------------


@emits(vector, types.intp, types.intp)
def load(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """Sixteen floats from `index` on."""
    pointer = builder.bitcast(ir_pointer(builder, address, index, ir_float), ir_lanes.as_pointer())
    return builder.load(pointer, align=_UNALIGNED)


@emits(types.void, types.intp, types.intp, vector)
def store(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value) -> ir.Value:
    """Write sixteen floats from `index` on."""
    pointer = builder.bitcast(ir_pointer(builder, address, index, ir_float), ir_lanes.as_pointer())
    builder.store(value, pointer, align=_UNALIGNED)
    return context.get_dummy_value()


@emits(types.float32, types.intp, types.intp)
def scalar(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """One float."""
    return builder.load(ir_pointer(builder, address, index, ir_float), align=_UNALIGNED)


@emits(types.void, types.intp, types.intp, types.float32)
def put(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value) -> ir.Value:
    """Write one float."""
    builder.store(value, ir_pointer(builder, address, index, ir_float), align=_UNALIGNED)
    return context.get_dummy_value()


@emits(types.intp, types.intp, types.intp)
def integer(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """One entry of an int32 array."""
    value = builder.load(ir_pointer(builder, address, index, ir.IntType(32)), align=_UNALIGNED)
    return builder.sext(value, _word)


def _words(_: Any, address: types.Type, count: types.Type) -> Any:
    """The `count` (a literal) int64 numbers at an address, as a tuple."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    result = types.UniTuple(types.intp, count.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], _word.as_pointer())
        loaded = [builder.load(builder.gep(pointer, [ir.Constant(_word, i)])) for i in range(result.count)]
        return context.make_tuple(builder, result, loaded)

    return result(types.intp, count), codegen


words: Any = stepping.words if numba.config.DISABLE_JIT else intrinsic(_words)  # type: ignore[attr-defined]


@emits(types.intp, types.intp)
def take_ticket(_: Any, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Next number of an int64 counter that several threads share."""
    pointer = builder.inttoptr(address, _word.as_pointer())
    return builder.atomic_rmw("add", pointer, ir.Constant(_word, 1), "monotonic")


# --- arithmetic -------------------------------------------------------------------------------------------------------


@emits(types.void, types.intp, types.intp)
def prefetch(context: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """Have the line of memory with float `index` brought into the caches, for later; the address may be any."""
    byte = ir.IntType(8).as_pointer()
    pointer = builder.bitcast(ir_pointer(builder, address, index, ir_float), byte)
    kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(ir.IntType(32), x) for x in (0, 3, 1))])  # to read, keep, data
    return context.get_dummy_value()


@emits(vector, types.float32)
def spread(_: Any, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same number in every lane."""
    one = builder.insert_element(ir.Constant(ir_lanes, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(ir_lanes, ir.Undefined), ir.Constant(ir_int_lanes, [0] * LANES))


@emits(vector, types.intp, types.intp)
def load_spread(_: Any, builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """One float of memory in every lane."""
    value = builder.load(ir_pointer(builder, address, index, ir_float), align=_UNALIGNED)
    one = builder.insert_element(ir.Constant(ir_lanes, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(ir_lanes, ir.Undefined), ir.Constant(ir_int_lanes, [0] * LANES))


@emits(vector, vector, vector, vector)
def multiply_add(_: Any, builder: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x·y + z."""
    return _multiply_add(builder, x, y, z)


@emits(vector, vector)
def floor(_: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The largest integer that is not above x; infinities and NaN stay."""
    return _call(builder, f"llvm.floor.v{LANES}f32", ir_lanes, x)


@emits(vector, vector)
def exp2(context: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x to 2 units in the last place; results below the normal range may be anything from 0 to 2e-38."""
    return _exp2(context, builder, x)


@emits(vector, vector)
def softplus(context: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """log(1 + e^x) = max(x, 0) + log1p(e^−|x|), to 3 units in the last place for either sign."""
    power = _exp_of_minus_magnitude(context, builder, x)
    positive_part = _larger(builder, x, ir_constant(0.0))
    return _multiply_add(builder, power, _polynomial(builder, power, _LOG1P), positive_part)


@emits(vector, vector)
def sigmoid(context: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """1/(1 + e^−x), the slope of `softplus`, to 3 units in the last place for either sign."""
    power = _exp_of_minus_magnitude(context, builder, x)
    numerator = builder.select(builder.fcmp_ordered(">", x, ir_constant(0.0)), ir_constant(1.0), power)
    return builder.fdiv(numerator, builder.fadd(power, ir_constant(1.0)))


@emits(vector, vector)
def gelu(context: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x·Φ(x) = max(x, 0) − |x|·Φ(−|x|), to 1e-7 of the larger of |x| and 1; 0 for −∞."""
    away = builder.bitcast(
        builder.and_(builder.bitcast(x, ir_int_lanes), ir_constant(0x7FFFFFFF, ir.IntType(32))), ir_lanes
    )
    away = builder.select(builder.fcmp_unordered("<", away, ir_constant(_NO_TAIL)), away, ir_constant(_NO_TAIL))
    step = builder.fdiv(ir_constant(1.0), _multiply_add(builder, away, ir_constant(_TAIL_STEP), ir_constant(1.0)))
    power = _exp2(context, builder, builder.fmul(builder.fmul(away, away), ir_constant(-0.5 * LOG2_E)))
    tail = builder.fmul(_polynomial(builder, step, _TAIL), power)
    positive_part = _larger(builder, x, ir_constant(0.0))
    return builder.fsub(positive_part, builder.fmul(away, tail))


@emits(vector, vector, vector, vector)
def leaky(_: Any, builder: ir.IRBuilder, sign: ir.Value, x: ir.Value, slope: ir.Value) -> ir.Value:
    """x where `sign` is positive, slope·x elsewhere: a leaky ReLU, or its gradient."""
    positive = builder.fcmp_ordered(">", sign, ir_constant(0.0))
    return builder.select(positive, x, builder.fmul(x, slope))


@emits(types.float32, vector)
def total(_: Any, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Sum of the lanes, added pairwise."""
    width = LANES
    while width > 1:
        width //= 2
        half = ir.VectorType(ir.IntType(32), width)
        low, high = ([*range(width)], [*range(width, 2 * width)])
        x = builder.fadd(
            builder.shuffle_vector(x, x, ir.Constant(half, low)), builder.shuffle_vector(x, x, ir.Constant(half, high))
        )
    return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))
