"""The head of queries: pairs of least cost, targets, what is found."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

import visionssm
from visionssm.pointcloud.boxes import Truth
from visionssm.pointcloud.heads.assignment import least_cost
from visionssm.pointcloud.heads.transfusion import QueryPredictions, TransFusionHead, _around
from visionssm.pointcloud.voxels import Grid

GRID = Grid((-8, -8, -3, 8, 8, 1), (0.25, 0.25, 0.5))
TRUTH = Truth(
    torch.tensor(
        [[4.0, 2, -1, 4.1, 1.7, 1.5, 0.3, 1, 2], [-5, -3, -1, 3.8, 1.6, 1.4, -2.8, 0, 1], [-4, 5, 0, 1, 1, 2, 1, 0, 0]]
    ),
    torch.tensor([0, 0, 1]),
)
NOTHING = Truth(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 1), (0, 4), (3, 3), (3, 6), (5, 6)])
def test_assignment_has_the_least_cost_of_all(shape: tuple[int, int]) -> None:
    for seed in range(20):
        cost = np.random.default_rng(seed).integers(0, 9, shape).astype(float)  # many ties
        columns = least_cost(cost)
        assert len(set(columns.tolist())) == shape[0]
        best = min(cost[range(shape[0]), list(x)].sum() for x in permutations(range(shape[1]), shape[0]))
        assert cost[range(shape[0]), columns].sum() == best


def test_costs_that_cannot_be_assigned_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no more rows than columns, got \(3, 2\)"):
        least_cost(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite"):
        least_cost([[np.nan, 1.0]])


def head(**options: object) -> TransFusionHead:
    torch.manual_seed(0)
    options = {"queries": 6, "channels": 16, "heads": 2, "hidden": 8, "small": (1,)} | options
    return TransFusionHead(4, GRID, 2, **options).eval()  # type: ignore[arg-type]


def perfect(net: TransFusionHead, truths: list[Truth]) -> QueryPredictions:
    """What a head that is always right would say; queries without a box are at the corner."""
    batch, count = len(truths), net.queries
    heat = torch.stack([net.heat(truth, (32, 32)) for truth in truths])
    heat = torch.where(heat == 1, 12.0, -12.0)
    codes = torch.zeros(batch, count, 10)
    scores = torch.full((batch, 2, count), -12.0)
    labels = torch.zeros(batch, count, dtype=torch.long)
    for number, truth in enumerate(truths):
        codes[number, : len(truth.boxes)] = net.encoded(truth.boxes)
        labels[number, : len(truth.boxes)] = truth.labels
        scores[number, truth.labels, range(len(truth.labels))] = 12
    parts = codes.mT.split([2, 1, 3, 2, 2], 1)
    branches: dict[str, Tensor] = dict(zip(("center", "height", "dim", "rot", "vel"), parts, strict=True))
    branches |= {"iou": torch.ones(batch, 1, count), "heatmap": scores}
    return QueryPredictions(heat, labels, scores.sigmoid(), branches)


def test_a_perfect_head_finds_every_box_once_and_has_no_loss() -> None:
    net = head(least_score=0.1)
    predictions = perfect(net, [TRUTH, NOTHING])
    first, second = net.detections(predictions)
    order = first.labels * 99 - first.boxes[:, 0]
    torch.testing.assert_close(first.boxes[order.argsort()], TRUTH.boxes, rtol=1e-4, atol=1e-4)
    assert sorted(first.labels.tolist()) == TRUTH.labels.tolist()
    assert len(second.scores) == 0
    assert all(loss < 1e-2 for loss in net.losses(predictions, [TRUTH, NOTHING]).values())


def test_velocities_that_are_not_known_count_nothing() -> None:
    net = head()
    predictions = perfect(net, [TRUTH])
    predictions.branches["vel"] += 5
    assert net.losses(predictions, [TRUTH])["loss_box"] > 0.1
    unknown = TRUTH.boxes.clone()
    unknown[:, 7:] = torch.nan
    for boxes in (TRUTH.boxes[:, :7], unknown):
        assert net.losses(predictions, [TRUTH._replace(boxes=boxes)])["loss_box"] < 1e-5


def test_boxes_beyond_the_queries_are_left_out_and_no_query_has_two() -> None:
    net = head(queries=2)
    with torch.no_grad():
        predictions = net(torch.randn(1, 4, 32, 32))
    target = net.targets(predictions, 0, TRUTH)
    assert target.boxes.tolist() == [0, 1]
    assert sorted(target.queries.tolist()) == [0, 1]


def test_peaks_are_the_hottest_of_their_neighbours_but_every_cell_of_a_small_class() -> None:
    net = head()
    heat = torch.full((1, 2, 6, 6), -5.0)
    heat[0, :, 2, 2], heat[0, :, 2, 3], heat[0, :, 0, 5] = 2.0, 1.0, 3.0
    peaks = net.peaks(heat)
    assert peaks[0, 0].nonzero().tolist() != []
    assert peaks[0, 0, 2, 2] == torch.tensor(2.0).sigmoid()
    assert peaks[0, 0, 2, 3] == 0
    assert peaks[0, 0, 0, 5] == 0  # on the border
    assert (peaks[0, 1] > 0).all()


def test_a_query_looks_at_the_cells_within_reach() -> None:
    cell = torch.tensor([[50 * 100 + 50]])
    around = _around(cell, 100, 100).view(100, 100)
    wanted = torch.zeros(100, 100, dtype=torch.bool)
    wanted[30:71, 30:71] = True
    assert torch.equal(around, wanted)
    assert not _around(cell * 0, 100, 100)[0, 0, 21 * 100 :].any()


def test_of_a_small_class_no_two_overlap() -> None:
    net = head(queries=60, overlap=0.1)
    with torch.no_grad():
        predictions = net(torch.randn(1, 4, 32, 32))
        predictions.branches["dim"][:] = 1.5
        (found,) = net.detections(predictions)
    small = found.boxes[found.labels == 1]
    iou = visionssm.rotated_iou(small[:, None, :7], small[:, :7])
    assert (iou - torch.eye(len(small)) <= 0.1 + 1e-6).all()
    assert 0 < len(small) < (predictions.labels == 1).sum()
    assert (found.scores.diff() <= 0).all()


def test_every_parameter_that_has_an_influence_is_trained() -> None:
    net = head()
    losses = net.losses(net(torch.randn(2, 4, 32, 32)), [TRUTH, NOTHING])
    torch.stack(list(losses.values())).sum().backward()
    without = {name for name, x in net.named_parameters() if x.grad is None or not x.grad.any()}
    assert {name for name in without if ".iou." not in name} == set()  # that of a pair which has nothing in common
