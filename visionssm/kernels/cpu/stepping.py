"""What compiled kernels are made of, in NumPy: for NUMBA_DISABLE_JIT=1, under which a debugger steps through a kernel.

A function here has the name of the one that emits instructions, which says what it does; `emits` puts it in its place.
Sixteen lanes are an array of sixteen float32. All is slow, and one thread runs it.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray

LANES = 16
KERNEL, POINTS = 3, 9  # of the deformable sum

Lanes = NDArray[np.float32]
_of_lane = np.minimum(np.arange(LANES), POINTS - 1)  # the point of a lane


def _floats(address: int, index: int, count: int) -> Lanes:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(int(address) + 4 * int(index)))


def _halves(address: int, index: int, count: int) -> NDArray[np.uint16]:
    return np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(int(address) + 2 * int(index)))


def load(address: int, index: int) -> Lanes:
    return _floats(address, index, LANES).copy()


def store(address: int, index: int, value: Lanes) -> None:
    _floats(address, index, LANES)[:] = value


def scalar(address: int, index: int) -> np.float32:
    return np.float32(_floats(address, index, 1)[0])


def put(address: int, index: int, value: np.float32) -> None:
    _floats(address, index, 1)[0] = value


def integer(address: int, index: int) -> int:
    return ctypes.c_int32.from_address(int(address) + 4 * int(index)).value


def words(address: int, count: int) -> tuple[int, ...]:
    return tuple((ctypes.c_int64 * count).from_address(int(address)))


def take_ticket(address: int) -> int:
    counter = ctypes.c_int64.from_address(int(address))
    counter.value += 1
    return counter.value - 1


def prefetch(address: int, index: int) -> None:
    pass


def spread(value: np.float32) -> Lanes:
    return np.full(LANES, value, np.float32)


def load_spread(address: int, index: int) -> Lanes:
    return spread(scalar(address, index))


def multiply_add(x: Lanes, y: Lanes, z: Lanes) -> Lanes:
    return x * y + z


def floor(x: Lanes) -> Lanes:
    return np.floor(x)


def exp2(x: Lanes) -> Lanes:
    return np.exp2(x)


def softplus(x: Lanes) -> Lanes:
    return np.logaddexp(x, np.float32(0))


def sigmoid(x: Lanes) -> Lanes:
    return np.exp(-np.logaddexp(-x, np.float32(0)))


def gelu(x: Lanes) -> Lanes:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def leaky(sign: Lanes, x: Lanes, slope: Lanes) -> Lanes:
    return np.where(sign > 0, x, slope * x)


def total(x: Lanes) -> np.float32:
    return np.float32(x.sum(dtype=np.float32))


def sums_of_rows(address: int) -> Lanes:
    return _floats(address, 0, LANES * LANES).reshape(LANES, LANES).sum(1, dtype=np.float32)


def sums_by_four(x0: Lanes, x1: Lanes, x2: Lanes, x3: Lanes) -> Lanes:
    return np.concatenate([x.reshape(4, 4).sum(0, dtype=np.float32) for x in (x0, x1, x2, x3)])


def add_four(address: int, index: int, x: Lanes) -> None:
    _floats(address, index, 4)[:] += x.reshape(4, 4).sum(1, dtype=np.float32)


# --- half precision ---------------------------------------------------------------------------------------------------


def load_bfloat16(address: int, index: int) -> Lanes:
    return (_halves(address, index, LANES).astype(np.uint32) << 16).view(np.float32)


def scalar_bfloat16(address: int, index: int) -> np.float32:
    return np.float32((_halves(address, index, 1).astype(np.uint32) << 16).view(np.float32)[0])


def store_bfloat16(address: int, index: int, x: Lanes) -> None:
    _halves(address, index, len(x))[:] = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)


def put_bfloat16(address: int, index: int, x: np.float32) -> None:
    store_bfloat16(address, index, np.array([x], np.float32))


def load_float16(address: int, index: int) -> Lanes:
    return _halves(address, index, LANES).view(np.float16).astype(np.float32)


def scalar_float16(address: int, index: int) -> np.float32:
    return np.float32(_halves(address, index, 1).view(np.float16)[0])


def store_float16(address: int, index: int, x: Lanes) -> None:
    with np.errstate(over="ignore"):
        _halves(address, index, len(x)).view(np.float16)[:] = x


def put_float16(address: int, index: int, x: np.float32) -> None:
    store_float16(address, index, np.array([x], np.float32))


# --- complex numbers of the linear recurrence -------------------------------------------------------------------------


def swapped(x: Lanes) -> Lanes:
    return x[np.arange(LANES) ^ 1]


def real_twice(x: Lanes) -> Lanes:
    return x[np.arange(LANES) & ~1]


def imaginary_crossed(x: Lanes) -> Lanes:
    signs = np.where(np.arange(LANES) % 2 == 0, np.float32(-1), np.float32(1))
    return signs * x[np.arange(LANES) | 1]


# --- points of the deformable sum -------------------------------------------------------------------------------------


def moved_x(address: int) -> Lanes:
    steps = (_of_lane // KERNEL - KERNEL // 2).astype(np.float32)
    return steps + _floats(address, 0, 2 * POINTS)[2 * _of_lane]


def moved_y(address: int) -> Lanes:
    steps = (_of_lane % KERNEL - KERNEL // 2).astype(np.float32)
    return steps + _floats(address, 0, 2 * POINTS)[2 * _of_lane + 1]


def load_points(address: int) -> Lanes:
    return _floats(address, 0, POINTS)[_of_lane]


def store_points(address: int, x: Lanes) -> None:
    _floats(address, 0, POINTS)[:] = x[:POINTS]


def store_pairs(address: int, x: Lanes, y: Lanes) -> None:
    _floats(address, 0, 2 * POINTS)[:] = np.stack([x, y], -1)[:POINTS].reshape(-1)


def store_pixels(address: int, x: Lanes, y: Lanes, width: int, height: int) -> None:
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = np.where(inside, y, 0).astype(np.int32) * np.int32(width) + np.where(inside, x, 0).astype(np.int32)
    target = np.ctypeslib.as_array((ctypes.c_int32 * LANES).from_address(int(address)))
    target[:] = np.where(inside, pixels, -1)


def smaller(x: Lanes, y: Lanes) -> Lanes:
    return np.where(x < y, x, y)


def larger(x: Lanes, y: Lanes) -> Lanes:
    return np.where(x > y, x, y)
