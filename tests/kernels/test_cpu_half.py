"""Half-precision rows in compiled CPU kernels: every number, torch's rounding, and no map converted as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from visionssm.kernels import LowRank, routes, selective_scan
from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.half import FORMATS, narrow, readable, widen
from visionssm.kernels.cpu.kernel import kernel

HALVES = [torch.bfloat16, torch.float16]


@kernel
def _widen(tasks, counter, x, y, count, kind):  # type: ignore[no-untyped-def]
    widen(x, y, count, kind)


@kernel
def _narrow(tasks, counter, x, y, count, kind):  # type: ignore[no-untyped-def]
    narrow(x, y, count, kind)


def _converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.full((x.numel() + 1,), 7.0, dtype=dtype)
    half = dtype if x.dtype == torch.float32 else x.dtype
    convert = _narrow if x.dtype == torch.float32 else _widen
    threads.run_kernel(convert, 1, x=x.data_ptr(), y=y.data_ptr(), count=x.numel(), kind=FORMATS[half])
    assert y[-1] == 7  # nothing is written behind the row
    return y[:-1]


def _all_numbers(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_processor_reads_the_format(dtype: torch.dtype) -> None:
    assert readable(dtype)
    assert not readable(torch.float64)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_precision_number_is_widened_exactly(dtype: torch.dtype) -> None:
    x = _all_numbers(dtype)
    torch.testing.assert_close(_converted(x, torch.float32), x.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("count", [1, 15, 16, 37])
def test_rows_of_any_length_are_converted_whole(dtype: torch.dtype, count: int) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    half = _converted(x, dtype)
    assert torch.equal(half, x.to(dtype))
    assert torch.equal(_converted(half, torch.float32), half.float())


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_is_torchs(dtype: torch.dtype) -> None:
    """Between every two neighbours: just below, at, and just above the middle; and beyond the range."""
    numbers = _all_numbers(dtype).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middle = (numbers[1:] + numbers[:-1]) / 2
    beyond = torch.tensor([1e38, -1e38, 3.4e38, 65519.9, 65520.0, 1e-45, -1e-45, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([middle.nextafter(numbers[1:]), middle, middle.nextafter(numbers[:-1]), beyond])
    torch.testing.assert_close(_converted(x, dtype), x.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("backward", [False, True])
def test_scan_makes_no_float32_copy_of_a_half_precision_map(dtype: torch.dtype, backward: bool) -> None:
    height, width, channels = 24, 24, 96
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_(backward)

    u, low, b, c = (normal(1, height * width, *x) for x in ((channels,), (4, 6), (4, 1), (4, 1)))
    weight, a = normal(4, 6, channels), -torch.ones(4, channels, 1)
    order = routes.ss2d(height, width)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        y = selective_scan(u, LowRank(low, weight), a, b, c, order=order)
        assert isinstance(y, Tensor)
        if backward:
            y.backward(torch.ones_like(y))
    assert y.dtype == dtype
    copied = [e.input_shapes[0] for e in recorded.events() if e.name == "aten::copy_"]
    assert list(u.shape) not in copied
