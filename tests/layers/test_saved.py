"""Maps that are made again in the backward pass give the same gradients, and are not kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from visionssm.layers.saved import made_again


def _squared(x: Tensor, calls: list[int]) -> Tensor:
    """(2x)², with 2x made again."""
    double = 2 * x

    def recipe() -> Tensor:
        calls.append(1)
        return 2 * x.detach()

    with made_again(double, recipe, reads=[x]):
        return double * double


def test_gradients_of_both_orders_are_those_of_what_was_not_kept() -> None:
    x = torch.randn(5, requires_grad=True)
    calls: list[int] = []
    (first,) = torch.autograd.grad(_squared(x, calls).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert calls
    torch.testing.assert_close(first, 64 * x**3)
    torch.testing.assert_close(second, 192 * x**2)


def test_transposed_view_of_a_square_map_is_not_mistaken_for_the_map() -> None:
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    double = 2 * x
    with made_again(double, lambda: 2 * x.detach(), reads=[x]):
        y = torch.sin(double.t()) @ double
    (expected,) = torch.autograd.grad((torch.sin(2 * x.t()) @ (2 * x)).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)


def test_nothing_of_the_map_stays_in_memory_before_the_backward_pass() -> None:
    x = torch.randn(5, requires_grad=True)
    double = 2 * x
    with made_again(double, lambda: 2 * x.detach(), reads=[x]):
        y = double * double
    gone = StorageWeakRef(double.untyped_storage())
    del double
    assert gone.expired()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 8 * x)


def test_transforms_autocast_and_calls_without_gradients_keep_what_they_keep() -> None:
    x = torch.randn(5)
    calls: list[int] = []
    torch.testing.assert_close(torch.func.grad(lambda x: _squared(x, calls).sum())(x), 8 * x)
    torch.testing.assert_close(_squared(x, calls), 4 * x**2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.autograd.grad(_squared(x.requires_grad_(), calls).sum(), x)
    assert not calls


def test_backward_pass_refuses_what_was_changed_in_place_inside_and_in_what_the_recipe_reads() -> None:
    x, weight, factor = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True), torch.ones(5)
    for changed in (weight, factor):
        product = factor * x
        with made_again(product, lambda: factor * x, reads=[x, factor]):
            y = product * weight
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), [x, weight])


def test_graph_that_no_backward_pass_frees_is_freed_with_its_results() -> None:
    x = torch.randn(5, requires_grad=True)
    double = 2 * x
    with made_again(double, lambda: 2 * x, reads=[x]):
        y = torch.exp(double)  # which keeps its own result
    gone = StorageWeakRef(y.untyped_storage())
    del y
    assert gone.expired()


def test_second_gradients_reach_leaves_that_operators_inside_keep() -> None:
    x, weight = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64, requires_grad=True)

    def cubed(x: Tensor, weight: Tensor) -> Tensor:
        double = 2 * x
        with made_again(double, lambda: 2 * x, reads=[x]):
            return (double * weight) ** 2 * weight

    assert torch.autograd.gradgradcheck(cubed, (x.requires_grad_(), weight))
