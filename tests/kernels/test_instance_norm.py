"""Instance norm with leaky ReLU: the compiled passes against its formula in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from visionssm import use_backend
from visionssm.kernels.instance_norm import cpu, instance_norm_leaky

SLOPE = 0.1


def _inputs(*shape: int, added: bool = True) -> list[Tensor]:
    """A map far from zero, weight, bias, and a map that is added."""
    torch.manual_seed(0)
    channels = shape[1]
    x = torch.randn(shape) * (0.5 + torch.rand(channels).view(-1, *[1] * (len(shape) - 2))) + 10
    inputs = [x, torch.randn(channels), torch.randn(channels)]
    return [y.requires_grad_() for y in ([*inputs, torch.randn(shape)] if added else inputs)]


def _formula(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None = None) -> Tensor:
    pixels = tuple(range(2, x.ndim))
    away = x - x.mean(pixels, keepdim=True)
    deviation = (away.square().mean(pixels, keepdim=True) + 1e-5).sqrt()
    weight, bias = (y.view(-1, *[1] * len(pixels)) for y in (weight, bias))
    z = weight * away / deviation + bias + (0 if added is None else added)
    return torch.where(z > 0, z, SLOPE * z)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(2, 16, 5, 61), (1, 48, 3, 4, 50), (3, 32, 7, 1), (1, 16, 8, 16)], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_compiled_passes_are_the_formula(shape: tuple[int, ...], added: bool, last: bool) -> None:
    inputs = _inputs(*shape, added=added)
    if last:
        with torch.no_grad():
            inputs[0] = inputs[0].movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = _formula(*exact)
    weights = torch.randn(shape)
    with mock.patch.object(cpu, "backward", wraps=cpu.backward) as used:
        y = instance_norm_leaky(*inputs, slope=SLOPE)
        found = torch.autograd.grad(y, inputs, weights)
    assert used.call_count == 1
    assert y.movedim(1, -1).is_contiguous()
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-5)
    for ours, theirs in zip(found, torch.autograd.grad(expected, exact, weights.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-5)
    with torch.no_grad():
        assert torch.equal(instance_norm_leaky(*inputs, slope=SLOPE), y)
        x = inputs[0].detach().movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
        over = instance_norm_leaky(x, *inputs[1:], slope=SLOPE, overwrite=True)
    assert over.data_ptr() == x.data_ptr()
    assert torch.equal(over, y)
    differentiable = instance_norm_leaky(*inputs, slope=SLOPE, overwrite=True)
    assert differentiable.data_ptr() != inputs[0].data_ptr()
    frozen = instance_norm_leaky(*(x.detach() for x in inputs), slope=SLOPE, overwrite=True)
    assert torch.equal(frozen, y)
    assert torch.equal(instance_norm_leaky(*inputs, slope=SLOPE), y)  # x is as it was: what follows may need gradients


def test_any_number_of_threads_gives_the_same_bits() -> None:
    inputs = _inputs(2, 16, 30, 31)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y = instance_norm_leaky(*inputs, slope=SLOPE)
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_normalised_map_is_not_kept_for_the_backward_pass() -> None:
    *inputs, _ = _inputs(1, 16, 9, 9)
    with torch.no_grad():
        inputs[0] = inputs[0].movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    large: set[int] = set()

    def keep(x: Tensor) -> Tensor:
        if x.numel() == inputs[0].numel():
            large.add(x.data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        instance_norm_leaky(*inputs, slope=SLOPE)
    assert large == {inputs[0].data_ptr()}


def test_gradients_of_gradients_are_those_of_the_formula() -> None:
    inputs = [x.detach().requires_grad_() for x in _inputs(1, 16, 3, 3)]
    found = []
    for function in (lambda *x: instance_norm_leaky(*x, slope=SLOPE), _formula):
        (slope,) = torch.autograd.grad(function(*inputs).pow(3).sum(), inputs[1], create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), inputs))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_other_calls_run_pytorchs_operators(backend: str) -> None:
    inputs = _inputs(1, 16, 4, 5)
    with mock.patch.object(cpu, "forward", side_effect=AssertionError), use_backend(backend):
        double = [x.detach().double() for x in inputs]
        torch.testing.assert_close(instance_norm_leaky(*double, slope=SLOPE), _formula(*double))
        odd = _inputs(1, 5, 4, 5)
        torch.testing.assert_close(instance_norm_leaky(*odd, slope=SLOPE), _formula(*odd), rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            instance_norm_leaky(*inputs, slope=SLOPE).sum().backward()
    assert inputs[0].grad is not None


def test_shapes_that_disagree_are_refused() -> None:
    x, weight, bias, added = _inputs(1, 16, 4, 5)
    for wrong, name in (
        ((x, weight[:15], bias), "weight"),
        ((x, weight, bias[:15]), "bias"),
        ((x, weight, bias, added[:, :15]), "added"),
    ):
        with pytest.raises(ValueError, match=name):
            instance_norm_leaky(*wrong, slope=SLOPE)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        instance_norm_leaky(x[..., :1, :1], weight, bias, slope=SLOPE)
    for negative in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="slope"):
            instance_norm_leaky(x, weight, bias, slope=negative)
