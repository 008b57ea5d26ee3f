"""Multi-scale convolutions and local positions: the compiled passes against the definitions in float64."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from visionssm import use_backend
from visionssm.kernels.multi_scale import Depthwise, Norm, multi_scale
from visionssm.kernels.multi_scale import cpu as multi_scale_cpu
from visionssm.kernels.multi_scale.reference import multi_scale_reference
from visionssm.kernels.position_norm import cpu as position_norm_cpu
from visionssm.kernels.position_norm import position_norm
from visionssm.kernels.position_norm.reference import position_norm_reference

SIDES = (3, 5, 7, 9)


def _map(height: int, width: int, channels: int) -> Tensor:
    return torch.randn(2, height, width, channels)


def _conv(channels: int, side: int) -> Depthwise:
    return Depthwise(torch.randn(channels, 1, side, side) / side, torch.randn(channels))


def _norm(channels: int, eps: float = 1e-5) -> Norm:
    return Norm(torch.randn(channels), torch.randn(channels), eps)


def _scales(channels: int, sides: tuple[int, ...] = SIDES) -> tuple[Depthwise, ...]:
    return tuple(_conv(channels // len(sides), side) for side in sides)


def _exact(value: Any) -> Any:
    if isinstance(value, (Depthwise, Norm)):
        return type(value)(*map(_exact, value))
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    return value.double() if isinstance(value, Tensor) else value


@pytest.fixture(autouse=True)
def the_same_each_time() -> None:
    torch.manual_seed(0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (12, 1), (2, 13)])
@pytest.mark.parametrize("channels", [4, 8, 16, 20, 36, 64])
@pytest.mark.parametrize("placed", [True, False])
def test_multi_scale_pass_is_the_definition(size: tuple[int, int], channels: int, placed: bool) -> None:
    position = _conv(channels, 3) if placed else None
    inputs = (_map(*size, channels), position, _norm(channels), _scales(channels), _norm(channels, 1e-3))
    with mock.patch.object(multi_scale_cpu, "forward", wraps=multi_scale_cpu.forward) as used:
        found = multi_scale(*inputs)
    assert used.call_count == 1
    for got, want in zip(found, multi_scale_reference(*_exact(inputs)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sides", [(3,), (1, 1), (5, 3, 1)])
def test_any_number_and_order_of_scales_is_taken(sides: tuple[int, ...]) -> None:
    channels = 7 * len(sides)
    inputs = (_map(4, 6, channels), None, _norm(channels), _scales(channels, sides), _norm(channels))
    for got, want in zip(multi_scale(*inputs), multi_scale_reference(*_exact(inputs)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (12, 1), (2, 13)])
@pytest.mark.parametrize("channels", [1, 8, 15, 21, 64])
def test_pass_of_positions_is_the_definition(size: tuple[int, int], channels: int) -> None:
    inputs = (_map(*size, channels), _map(*size, channels), _conv(channels, 3), _norm(channels))
    if channels == 1:  # the norm of a single channel is its bias, whatever its rounded distance from the mean is
        inputs = (*inputs[:3], Norm(torch.zeros(1), inputs[3].bias, 1e-5))
    with mock.patch.object(position_norm_cpu, "forward", wraps=position_norm_cpu.forward) as used:
        found = position_norm(*inputs)
    assert used.call_count == 1
    for got, want in zip(found, position_norm_reference(*_exact(inputs)), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_any_number_of_threads_and_any_bands_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, position, norm = _map(9, 7, 20), _conv(20, 3), _norm(20)
    scales = _scales(20)

    def results() -> list[Tensor]:
        return [*multi_scale(x, position, norm, scales, norm), *position_norm(x, x, position, norm)]

    before, expected = torch.get_num_threads(), results()
    try:
        for threads in (1, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(), expected))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(multi_scale_cpu, "_BAND_FLOATS", 1)  # a row at a time
    monkeypatch.setattr(position_norm_cpu, "_BAND_FLOATS", 1)
    assert all(map(torch.equal, results(), expected))


@torch.no_grad()
def test_views_and_no_images_at_all_are_taken() -> None:
    x, position, norm, scales = _map(5, 4, 12), _conv(12, 3), _norm(12), _scales(12)
    view = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for got, want in zip(
        multi_scale(view, None, norm, scales, norm), multi_scale(x, None, norm, scales, norm), strict=True
    ):
        assert torch.equal(got, want)
    assert [y.shape for y in multi_scale(x[:0], position, norm, scales, norm)] == [(0, 5, 4, 12)] * 2
    assert [y.shape for y in position_norm(x[:0], x[:0], position, norm)] == [(0, 5, 4, 12)] * 2


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_other_calls_do_not_run_the_kernels_and_have_gradients(backend: str) -> None:
    x, position, norm, scales = _map(5, 4, 8), _conv(8, 3), _norm(8), _scales(8)
    refuse = {"side_effect": AssertionError}
    with (
        mock.patch.object(multi_scale_cpu, "forward", **refuse),
        mock.patch.object(position_norm_cpu, "forward", **refuse),
        use_backend(backend),
    ):
        y, normed = multi_scale(x.requires_grad_(), position, norm, scales, norm)
        (y + normed).square().sum().backward()
        y, normed = position_norm(x, x, position, norm)
        (y + normed).square().sum().backward()
        with torch.no_grad():
            exact = (x.double(), None, *_exact((norm, scales, norm)))
            assert multi_scale(*exact)[0].dtype == torch.float64
            assert torch.vmap(lambda one: multi_scale(one, None, norm, scales, norm)[0])(x[:, None]).shape[0] == 2
    assert x.grad is not None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scales": ()}, "divided among 0 scales"),
        ({"scales": tuple(Depthwise(torch.ones(2, 1, 2, 2), torch.ones(2)) for _ in range(4))}, "side of 2 pixels"),
        ({"norm": Norm(torch.ones(7), torch.ones(8), 1e-5)}, r"norm\.weight has shape \(7,\)"),
        ({"position": Depthwise(torch.ones(8, 1, 5, 5), torch.ones(8))}, r"position\.weight has shape"),
    ],
)
def test_shapes_that_disagree_are_refused(change: dict[str, Any], message: str) -> None:
    inputs = {"x": _map(5, 4, 8), "position": None, "norm": _norm(8), "scales": _scales(8), "last_norm": _norm(8)}
    with pytest.raises(ValueError, match=message):
        multi_scale(**{**inputs, **change})


def test_update_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"update has shape"):
        position_norm(_map(5, 4, 8), _map(4, 5, 8), _conv(8, 3), _norm(8))
