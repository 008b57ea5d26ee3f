"""Fusion of states: the compiled pass and the dense convolution against the definition in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from visionssm import use_backend
from visionssm.kernels.state_fusion import cpu, state_fusion
from visionssm.kernels.state_fusion.reference import state_fusion_dense, state_fusion_reference


def _inputs(height: int, width: int, channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, height, width, channels).to(dtype), torch.randn(3, 9, channels).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (12, 1), (2, 13)])
@pytest.mark.parametrize("channels", [1, 15, 16, 21, 64, 100, 150])
def test_compiled_pass_is_the_definition(size: tuple[int, int], channels: int) -> None:
    h, kernels = _inputs(*size, channels)
    exact = state_fusion_reference(h.double(), kernels.double())
    with mock.patch.object(cpu, "forward", wraps=cpu.forward) as used:
        y = state_fusion(h, kernels)
    assert used.call_count == 1
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_any_number_of_threads_gives_the_same_bits() -> None:
    h, kernels = _inputs(7, 9, 150)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(state_fusion(h, kernels))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@torch.no_grad()
def test_views_and_no_images_at_all_are_taken() -> None:
    h, kernels = _inputs(7, 9, 40)
    view = h.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(state_fusion(view, kernels), state_fusion(h, kernels))
    assert state_fusion(h[:0], kernels).shape == (0, 7, 9, 40)


def test_dense_convolution_is_the_definition() -> None:
    h, kernels = _inputs(7, 9, 5, torch.float64)
    torch.testing.assert_close(state_fusion_dense(h, kernels), state_fusion_reference(h, kernels))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_other_calls_do_not_run_the_kernel_and_have_gradients(backend: str) -> None:
    h, kernels = _inputs(5, 4, 6)
    with mock.patch.object(cpu, "forward", side_effect=AssertionError), use_backend(backend):
        state_fusion(h.requires_grad_(), kernels.requires_grad_()).square().sum().backward()
        with torch.no_grad():
            assert state_fusion(h.double(), kernels.double()).dtype == torch.float64
            assert torch.vmap(state_fusion, (0, None))(h[:, None], kernels).shape == (2, 1, 5, 4, 6)
    assert h.grad is not None
    assert kernels.grad is not None


def test_shapes_that_disagree_are_refused() -> None:
    h, kernels = _inputs(5, 4, 6)
    with pytest.raises(ValueError, match="kernels"):
        state_fusion(h, kernels[..., :5])
