"""Decisions at kinks can be recorded, followed and switched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinks import FollowKinks, RecordKinks


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
