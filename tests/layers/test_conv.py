"""Convolutions of channels-last maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.layers.conv import Activation, MapConv2d, PreciseConv2d, activated, heavy

CHANNELS_LAST = torch.channels_last


def _error(conv: nn.Conv2d, x: torch.Tensor) -> float:
    exact = nn.functional.conv2d(x.double(), conv.weight.double(), None, conv.stride, conv.padding)
    return float((conv(x).double() - exact).norm() / exact.norm())


@torch.no_grad()
@pytest.mark.parametrize("channels", [64, 256])
def test_dense_convolution_is_as_precise_in_channels_last_as_in_the_contiguous_format(channels: int) -> None:
    torch.manual_seed(0)
    conv = PreciseConv2d(channels, channels, 3, padding=1, bias=False)
    x = torch.randn(2, channels, 16, 24)
    error = _error(conv, x.contiguous(memory_format=CHANNELS_LAST))
    assert error <= 1.01 * _error(conv, x)
    assert error < 4e-7


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 8}, {"kernel_size": 1, "padding": 0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_a_convolution_that_keeps_the_format(options: dict, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    arguments = {"kernel_size": 3, "padding": 1, **options}
    conv, plain = PreciseConv2d(8, 16, **arguments).to(dtype), nn.Conv2d(8, 16, **arguments).to(dtype)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 8, 9, 7, dtype=dtype).contiguous(memory_format=CHANNELS_LAST)
    y = conv(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=CHANNELS_LAST)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y, plain(x), rtol=tolerance, atol=tolerance)


def test_map_convolution_is_one_of_permuted_maps() -> None:
    conv = MapConv2d(4, 6, 3, stride=2, padding=1)
    x = torch.randn(2, 5, 7, 4)
    torch.testing.assert_close(
        conv(x).permute(0, 3, 1, 2), nn.functional.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, 2, 1)
    )


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"kernel_size": 1, "padding": 0}])
def test_weights_larger_than_the_map_give_the_same_convolution_and_gradients(options: dict) -> None:
    torch.manual_seed(0)
    conv = MapConv2d(64, 640, **{"kernel_size": 3, "padding": 1, **options}).double()
    x = torch.randn(1, 3, 5, 64, dtype=torch.float64, requires_grad=True)
    small = torch.empty(1, 64, 3, 5)
    assert heavy(conv, small) or conv.kernel_size == (1, 1)
    expected = nn.functional.conv2d(
        x.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation
    ).permute(0, 2, 3, 1)
    y = conv(x)
    torch.testing.assert_close(y, expected)
    inputs = (x, *conv.parameters())
    weighed = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, weighed), torch.autograd.grad(expected, inputs, weighed))


@pytest.mark.parametrize("size", [(2, 3), (24, 20)])
def test_precise_convolution_keeps_either_format(size: tuple[int, int]) -> None:
    conv = PreciseConv2d(64, 32, 3, padding=1)
    x = torch.randn(1, 64, *size)
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    assert conv(x.contiguous(memory_format=CHANNELS_LAST)).is_contiguous(memory_format=CHANNELS_LAST)
    assert conv(x).is_contiguous()
    for given in (x, x.contiguous(memory_format=CHANNELS_LAST)):
        torch.testing.assert_close(conv(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [F.silu, F.gelu])
@pytest.mark.parametrize("residual", [False, True])
def test_activation_written_over_a_convolution_is_that_of_a_new_map(
    activation: Activation, residual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, x = MapConv2d(16, 16, 3, padding=1, groups=16), torch.randn(2, 6, 5, 16)
    given = x.clone()
    with torch.no_grad():
        expected = activation(x + conv(x) if residual else conv(x))
    convolved: list[Tensor] = []
    forward = MapConv2d.forward

    def recorded(self: MapConv2d, x: Tensor) -> Tensor:
        convolved.append(forward(self, x))
        return convolved[-1]

    monkeypatch.setattr(MapConv2d, "forward", recorded)
    with torch.no_grad():
        found = activated(conv, x, activation, residual=residual)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.data_ptr() == convolved[0].data_ptr()
    assert torch.equal(x, given)


def test_nothing_is_written_over_what_somebody_else_may_hold() -> None:
    conv, x = MapConv2d(16, 16, 3, padding=1, groups=16), torch.randn(1, 6, 5, 16)
    with torch.no_grad():
        plain_map, expected = conv(x), F.silu(conv(x))
    seen: list[Tensor] = []
    handle = conv.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        torch.testing.assert_close(activated(conv, x, F.silu), expected, rtol=0, atol=0)
    assert torch.equal(seen[0], plain_map)
    handle.remove()
    kept = torch.randn(1, 6, 5, 16)
    with torch.no_grad():  # a convolution that was replaced may give what it keeps
        torch.testing.assert_close(activated(Kept(kept.clone()), x, F.silu), F.silu(kept), rtol=0, atol=0)
        replaced = Kept(kept.clone())
        activated(replaced, x, F.gelu, residual=True)
    assert torch.equal(replaced.kept, kept)
    with torch.no_grad():
        vectorised = torch.func.vmap(lambda one: activated(conv, one[None], F.silu)[0])(x)
    torch.testing.assert_close(vectorised, expected)


class Kept(nn.Module):
    """Gives the same map, which it keeps, whatever it is given."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return self.kept


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_of_an_activated_convolution_are_those_of_its_parts(residual: bool) -> None:
    conv, x = MapConv2d(16, 16, 3, padding=1, groups=16), torch.randn(1, 6, 5, 16, requires_grad=True)
    inputs = (x, *conv.parameters())
    expected = torch.autograd.grad(F.gelu(x + conv(x) if residual else conv(x)).sin().sum(), inputs)
    found = torch.autograd.grad(activated(conv, x, F.gelu, residual=residual).sin().sum(), inputs)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_activated_convolution_can_be_compiled_and_exported() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = MapConv2d(16, 16, 3, padding=1, groups=16)

        def forward(self, x: Tensor) -> Tensor:
            return activated(self.conv, x, F.gelu, residual=True)

    model, x = Model().eval(), torch.randn(1, 6, 5, 16)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
        torch.testing.assert_close(torch.jit.trace(model, (x,))(x), expected)
