"""Arithmetic of compiled CPU kernels against float64, over the whole range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from visionssm.kernels.cpu import math as cpu_math
from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.kernel import Kernel, kernel
from visionssm.kernels.cpu.math import LANES, load, load_spread, put, store, total
from visionssm.kernels.cpu.sums import add_four, sums_by_four


@kernel
def _exp2(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        store(y, i, cpu_math.exp2(load(x, i)))


@kernel
def _softplus(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        store(y, i, cpu_math.softplus(load(x, i)))


@kernel
def _sigmoid(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        store(y, i, cpu_math.sigmoid(load(x, i)))


@kernel
def _gelu(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        store(y, i, cpu_math.gelu(load(x, i)))


@kernel
def _floor(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        store(y, i, cpu_math.floor(load(x, i)))


@kernel
def _sums_of_scaled_blocks(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, LANES):
        put(y, i // LANES, total(load(x, i) * load_spread(x, 0)))


@kernel
def _sums_of_four_rows(tasks, counter, x, y, count):  # type: ignore[no-untyped-def]
    for i in range(0, count, 4 * LANES):
        rows = (load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES))
        add_four(y, i // LANES, sums_by_four(rows[0], rows[1], rows[2], rows[3]))


def _apply(kernel: Kernel, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    threads.run_kernel(kernel, 1, x=x.data_ptr(), y=y.data_ptr(), count=x.numel())
    return y


def _units_in_last_place(x: Tensor, exact: Tensor) -> float:
    return ((x.double() - exact).abs() / 2.0 ** (exact.abs().log2().floor() - 23)).max().item()


def test_floor_is_exact_beyond_integers_too() -> None:
    x = torch.tensor([-2.0, -1.5, -1e-30, -0.0, 0.0, 0.5, 1.0, 8388607.5, 3e9, -3e9, 1e38, -1e38, 7.25])
    x = torch.cat([x, torch.tensor([float("inf"), float("-inf"), float("nan")])])
    torch.testing.assert_close(_apply(_floor, x), x.floor(), rtol=0, atol=0, equal_nan=True)


def test_exp2_is_within_three_units_in_the_last_place() -> None:
    x = torch.linspace(-125, 127, 1 << 18)
    assert _units_in_last_place(_apply(_exp2, x), torch.exp2(x.double())) < 3


def test_exp2_of_zero_is_exactly_one_and_tiny_exponents_keep_their_sign() -> None:
    x = torch.tensor([0.0, -0.0, -1e-6, 1e-6]).repeat(4)
    torch.testing.assert_close(_apply(_exp2, x), torch.exp2(x.double()).float(), rtol=0, atol=0)


def test_exp2_under_the_range_is_next_to_nothing() -> None:
    y = _apply(_exp2, torch.tensor([-127.0, -200.0, -1e4, -1e30]).repeat(4))
    assert ((y >= 0) & (y < 2e-38)).all()


@pytest.mark.parametrize(
    ("kernel", "exact"),
    [
        (_softplus, lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))),
        (_sigmoid, torch.sigmoid),
    ],
)
def test_softplus_and_slope_keep_relative_accuracy_on_both_sides(
    kernel: Callable[..., Any], exact: Callable[[Tensor], Tensor]
) -> None:
    x = torch.linspace(-85, 85, 1 << 18)
    assert _units_in_last_place(_apply(kernel, x), exact(x.double())) < 4.5


def test_softplus_and_slope_of_huge_numbers_are_limits() -> None:
    x = torch.tensor([1e4, 1e30, -1e4, -1e30]).repeat(4)
    expected = torch.tensor([1e4, 1e30, 0.0, 0.0]).repeat(4)
    torch.testing.assert_close(_apply(_softplus, x), expected, rtol=0, atol=2e-38)
    torch.testing.assert_close(_apply(_sigmoid, x), (expected > 0).float(), rtol=0, atol=2e-38)


def test_not_a_number_stays_one() -> None:
    x = torch.full((LANES,), float("nan"))
    assert _apply(_softplus, x).isnan().all()


def test_total_adds_all_lanes() -> None:
    x = torch.arange(1.0, 4 * LANES + 1) / 8
    torch.testing.assert_close(_apply(_sums_of_scaled_blocks, x)[:4], x.view(4, LANES).sum(1) * x[0])


def test_four_vectors_are_summed_at_once_and_added_to_what_is_there() -> None:
    x = torch.arange(1.0, 8 * LANES + 1) ** 2  # exact in float32, and no two sums the same
    y = torch.arange(10.0)
    threads.run_kernel(_sums_of_four_rows, 1, x=x.data_ptr(), y=y.data_ptr(), count=x.numel())
    torch.testing.assert_close(y[:8], x.view(8, LANES).sum(1) + torch.arange(8.0), rtol=0, atol=0)
    assert y[8:].tolist() == [8, 9]


def test_gelu_is_exact_to_a_ten_millionth_and_keeps_its_limits() -> None:
    x = torch.cat(
        [torch.linspace(-20, 20, 1 << 16), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e38, -1e38] + [1.0] * 10)]
    )
    exact = torch.nn.functional.gelu(x.double())
    error = (_apply(_gelu, x).double() - exact).abs() / x.double().abs().clamp(min=1)
    assert error.max() < 2e-7
    limits = torch.tensor([float("inf"), float("-inf"), float("nan")] + [1.0] * 13)
    found = _apply(_gelu, limits)
    assert found[0] == float("inf")
    assert found[1] == 0
    assert found[2].isnan()


def test_gelu_of_the_far_side_keeps_its_digits() -> None:
    x = torch.linspace(-5, -1, 1 << 12)
    exact = torch.nn.functional.gelu(x.double())
    assert ((_apply(_gelu, x).double() - exact).abs() / exact.abs()).max() < 2e-3
