"""Causal convolution with SiLU: the compiled passes against sums over taps in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm import use_backend
from visionssm.kernels.causal_conv import causal_conv_silu, cpu


def _inputs(batch: int, tokens: int, channels: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that are half of wider ones, weight and bias."""
    torch.manual_seed(0)
    wide = torch.randn(batch, tokens, 2 * channels)
    return wide[..., channels:].requires_grad_(), *(
        torch.randn(shape).requires_grad_() for shape in ((channels, taps), (channels,))
    )


def _definition(x: Tensor, weight: Tensor, bias: Tensor, backwards: bool = False) -> Tensor:
    """A sum over taps of shifted tokens."""
    if backwards:
        return _definition(x.flip(1), weight, bias).flip(1)
    padded = F.pad(x, (0, 0, weight.shape[1] - 1, 0))
    return F.silu(sum((padded[:, j : j + x.shape[1]] * weight[:, j] for j in range(weight.shape[1])), start=bias))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("sizes", [(2, 150, 32, 4), (1, 2, 48, 4), (3, 64, 16, 1), (1, 66, 16, 70)], ids=str)
def test_compiled_passes_are_the_definition(sizes: tuple[int, int, int, int], backwards: bool) -> None:
    inputs = _inputs(*sizes)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = _definition(*exact, backwards=backwards)
    weights = torch.randn(expected.shape)
    with mock.patch.object(cpu, "backward", wraps=cpu.backward) as used:
        y = causal_conv_silu(*inputs, backwards=backwards)
        found = torch.autograd.grad(y, inputs, weights)
    assert used.call_count == 1
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found, torch.autograd.grad(expected, exact, weights.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    inputs = _inputs(2, 300, 16, 4)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y = causal_conv_silu(*inputs)
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nothing_but_the_inputs_is_kept_for_the_backward_pass() -> None:
    inputs = _inputs(1, 9, 16, 4)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        causal_conv_silu(*inputs)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in inputs}


def test_gradients_of_gradients_are_those_of_the_definition() -> None:
    inputs = _inputs(1, 9, 16, 3)
    found = []
    for function in (lambda *x: causal_conv_silu(*x, backwards=True), lambda *x: _definition(*x, backwards=True)):
        (slope,) = torch.autograd.grad(function(*inputs).square().sum(), inputs[0], create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_other_calls_run_pytorchs_convolution(backend: str) -> None:
    x, weight, bias = _inputs(1, 9, 16, 4)
    with mock.patch.object(cpu, "forward", side_effect=AssertionError), use_backend(backend):
        double = [y.detach().double() for y in (x, weight, bias)]
        torch.testing.assert_close(causal_conv_silu(*double), _definition(*double))
        odd = [y.detach() for y in (x[..., :15], weight[:15], bias[:15])]
        torch.testing.assert_close(causal_conv_silu(*odd), _definition(*odd), rtol=1e-4, atol=1e-5)
        mapped = torch.vmap(causal_conv_silu, (0, None, None))(x.detach()[None], weight.detach(), bias.detach())
        assert mapped.shape == (1, 1, 9, 16)
        with torch.autocast("cpu", torch.bfloat16):
            causal_conv_silu(x, weight, bias).sum().backward()
    assert causal_conv_silu(x[:0], weight, bias).shape == (0, 9, 16)
    assert x.grad is not None


def test_shapes_that_disagree_are_refused() -> None:
    x, weight, bias = _inputs(1, 9, 16, 4)
    with pytest.raises(ValueError, match="weight"):
        causal_conv_silu(x, weight[:15], bias)
    with pytest.raises(ValueError, match="bias"):
        causal_conv_silu(x, weight, bias[:15])


def test_what_is_traced_under_a_default_device_computes_with_other_tokens_too() -> None:
    x, other, weight, bias = torch.randn(1, 9, 16), torch.randn(1, 9, 16), torch.randn(16, 4), torch.randn(16)
    with torch.no_grad(), torch.device("cpu"):
        traced = torch.jit.trace(lambda tokens: causal_conv_silu(tokens, weight, bias), x)
        torch.testing.assert_close(traced(other), causal_conv_silu(other, weight, bias))


def test_a_default_device_does_not_change_the_numbers() -> None:
    x, weight, bias = torch.randn(1, 9, 16), torch.randn(16, 4), torch.randn(16)
    with torch.no_grad():
        expected = causal_conv_silu(x, weight, bias)
        with torch.device("meta"):
            assert torch.equal(causal_conv_silu(x, weight, bias), expected)
