"""Decisions at kinks can be recorded, followed and switched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinks import FollowKinks, RecordKinks
from visionssm.kernels import deformable_sum


def _inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    grid = 2.4 * torch.rand(2, 4, 6, 2, generator=generator, dtype=torch.float64) - 1.2  # some outside the map
    return maps.requires_grad_(), grid.requires_grad_()


def _network(maps: Tensor, grid: Tensor) -> Tensor:
    return nn.ReLU()(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 0.1)


def test_own_decisions_change_neither_outputs_nor_gradients() -> None:
    maps, grid = _inputs()
    with RecordKinks() as kinks:
        expected = _network(maps, grid)
    with FollowKinks(kinks.decisions):
        actual = _network(maps, grid)
    torch.testing.assert_close(actual, expected)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (maps, grid)) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_switched_position_beside_a_kink_changes_the_gradient_and_not_the_output() -> None:
    maps, grid = _inputs()
    with torch.no_grad():
        grid[0, 2, 3] = (2 * torch.tensor([3 - 1e-9, 1.5], dtype=torch.float64) + 1) / torch.tensor([7.0, 5.0]) - 1
    with RecordKinks() as kinks:
        expected = F.grid_sample(maps, grid, align_corners=False)
    with FollowKinks(kinks.switched({0: [[0, 2, 3, 0]]}, near=1e-6)):
        switched = F.grid_sample(maps, grid, align_corners=False)
    torch.testing.assert_close(switched, expected)
    gradients = [torch.autograd.grad(y.sum(), grid)[0] for y in (expected, switched)]
    changed = (gradients[0] - gradients[1]).abs() > 1e-6
    assert changed.nonzero().tolist() == [[0, 2, 3, 0]]


def test_a_switched_relu_lets_the_other_elements_gradient_pass() -> None:
    x = torch.tensor([1.0, -1e-9, 2.0], requires_grad=True)
    with RecordKinks() as kinks:
        F.relu(x)
    with FollowKinks(kinks.switched({0: [[1], [2]]}, near=1.0)):
        y = F.relu(x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1, 1, 0]


def test_only_values_beside_a_kink_can_be_switched() -> None:
    with RecordKinks() as kinks:
        F.relu(torch.tensor([1.0, -1e-6, 2.0]))
    assert kinks.switched({0: [[1]]}, near=1e-5)[0].tolist() == [True, True, True]
    with pytest.raises(ValueError, match="decision 0"):
        kinks.switched({0: [[0]]}, near=1e-5)


def test_disagreement_is_the_largest_distance_to_a_kink_of_what_two_runs_decided_otherwise() -> None:
    runs = []
    for moved in (0.0, 0.03):
        maps, grid = (x.detach() for x in _inputs())
        with RecordKinks() as kinks:
            F.relu(torch.tensor([1.0, 0.02 - moved, -2.0]))
            F.grid_sample(maps, grid, align_corners=False)
        runs.append(kinks)
    assert runs[0].disagreement(runs[1]) == pytest.approx(0.01)
    assert runs[0].disagreement(runs[0]) == 0


def _deformable_inputs(dtype: torch.dtype) -> list[Tensor]:
    """A map of 2 images and 3 groups, with offsets and masks; some positions lie outside."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 5, 7, 3, 4), (2, 5, 7, 3, 9, 2), (2, 5, 7, 3, 9))
    value, offset, mask = (torch.randn(shape, generator=generator) for shape in shapes)
    return [x.to(dtype).requires_grad_() for x in (value, 2 * offset, mask)]


def _deformable(inputs: list[Tensor]) -> Tensor:
    value, offset, mask = inputs
    y = deformable_sum(value, offset, mask, scale=0.5)
    return y + F.relu(y)


def _gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((y * y.detach().cos()).sum(), inputs))


def test_kernel_and_definition_of_the_deformable_sum_record_the_same_decisions() -> None:
    runs = []
    for dtype in (torch.float32, torch.float64):
        with RecordKinks() as kinks:
            _deformable(_deformable_inputs(dtype))
        runs.append(kinks)
    single, double = runs
    assert [x.shape for x in double.decisions] == [(2 * 3, 9 * 5, 7, 2), (2, 5, 7, 3, 4)]
    for ours, truth in zip(single.at, double.at, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
    assert single.disagreement(double) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_own_decisions_of_the_deformable_sum_change_nothing(dtype: torch.dtype) -> None:
    inputs = _deformable_inputs(dtype)
    with RecordKinks() as kinks:
        expected = _deformable(inputs)
    with FollowKinks(kinks.decisions):
        actual = _deformable(inputs)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(_gradients(actual, inputs), _gradients(expected, inputs))


def test_kernel_follows_what_the_definition_decided_beside_a_kink() -> None:
    """Offsets at the kink itself, which rounding puts on either side; elsewhere the gradients are the kernel's own."""
    double, single = _deformable_inputs(torch.float64), _deformable_inputs(torch.float32)
    place = (1, 2, 3, 2, 4)  # the middle point: its pixel plus the offset
    with torch.no_grad():
        double[1][place] = torch.tensor([-1e-9, 2 - 1e-9], dtype=torch.float64)
        single[1][place] = torch.tensor([0.0, 2.0])
    with RecordKinks() as own:
        expected = _deformable(single)
    with RecordKinks() as kinks:
        truth = _deformable(double)
    differing = own.decisions[0] != kinks.decisions[0]
    assert differing.nonzero().tolist() == [[1 * 3 + 2, 4 * 5 + 2, 3, 0], [1 * 3 + 2, 4 * 5 + 2, 3, 1]]
    with FollowKinks(kinks.decisions):
        followed = _deformable(single)
    torch.testing.assert_close(followed, expected)
    before, after = _gradients(expected, single), _gradients(followed, single)
    for ours, wanted in zip(after, _gradients(truth, double), strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-4)
    changed = (before[1] - after[1]).abs() > 1e-3
    assert changed.nonzero().tolist() == [[*place, 0], [*place, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_switched_position_of_the_deformable_sum_has_the_same_index_in_both_forms(dtype: torch.dtype) -> None:
    inputs = _deformable_inputs(dtype)
    with torch.no_grad():
        # Point 7 is half a pixel to the right, and the offset another half.
        inputs[1][0, 3, 2, 1, 7] = torch.tensor([1 + 1e-6, 0.3])
    with RecordKinks() as kinks:
        expected = _deformable(inputs)
    with FollowKinks(kinks.switched({0: [[0 * 3 + 1, 7 * 5 + 3, 2, 0]]}, near=1e-5)):
        switched = _deformable(inputs)
    torch.testing.assert_close(switched, expected, rtol=1e-5, atol=1e-5)
    changed = (_gradients(expected, inputs)[1] - _gradients(switched, inputs)[1]).abs() > 1e-3
    assert changed.nonzero().tolist() == [[0, 3, 2, 1, 7, 0]]
