"""The head among occupied cells: against its dense definition, targets, what is found."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import visionssm
from visionssm.pointcloud.boxes import Truth
from visionssm.pointcloud.heads.sparse_center import SparseCenterHead, SparsePredictions
from visionssm.pointcloud.voxels import Grid, Sites

GRID = Grid((-8, -8, -3, 8, 8, 1), (0.5, 0.5, 0.5))
TRUTH = Truth(
    torch.tensor([[4.1, 2, -1, 4.1, 1.7, 1.5, 0.3], [-5, -3.2, -1, 3.8, 1.6, 1.4, -2.8], [-4, 5, 0, 1, 1, 2, 1]]),
    torch.tensor([0, 2, 1]),
)
NOTHING = Truth(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))


def head(**options: object) -> SparseCenterHead:
    torch.manual_seed(0)
    return SparseCenterHead(6, GRID, 3, groups=(1, 2), **options).eval()  # type: ignore[arg-type]


def sites_of(share: float, batch: int = 2) -> Sites:
    generator = torch.Generator().manual_seed(0)
    there = torch.rand(batch, 1, 32, 32, generator=generator) < share
    return Sites(there.nonzero(), (1, 32, 32), batch)


def perfect(net: SparseCenterHead, sites: Sites, truths: list[Truth]) -> SparsePredictions:
    """What a head that is always right would say."""
    first, groups = 0, []
    cells = net._cells(sites).split(sites.counts)
    for classes in net.groups:
        parts: dict[str, list[Tensor]] = {"heatmap": [], "codes": []}
        for truth, own in zip(truths, cells, strict=True):
            chosen = (truth.labels >= first) & (truth.labels < first + classes)
            target = net.targets(Truth(truth.boxes[chosen], truth.labels[chosen] - first), own, classes)
            codes = torch.zeros(len(own), 8)
            codes[target.cells] = target.codes
            parts["heatmap"].append(torch.where(target.heat == 1, 12.0, -12.0))
            parts["codes"].append(codes)
        names = ("center", "center_z", "dim", "rot")
        codes = torch.cat(parts["codes"]).split([2, 1, 3, 2], 1)
        groups.append({**dict(zip(names, codes, strict=True)), "heatmap": torch.cat(parts["heatmap"])})
        first += classes
    return SparsePredictions(sites, groups)


def test_on_a_grid_that_is_full_the_branches_are_dense_convolutions() -> None:
    net, sites = head(), sites_of(2.0)
    x = torch.randn(2, 6, 32, 32)
    predictions = net(x.movedim(1, -1).reshape(-1, 6), sites)
    (conv, norm), last = net.heads_list[1]["dim"]  # type: ignore[index,misc]
    y = F.relu(F.batch_norm(F.conv2d(x, conv.weight.movedim(-1, 1), padding=1), norm.running_mean, norm.running_var,
                            norm.weight, norm.bias, eps=1e-3))  # fmt: skip
    y = F.conv2d(y, last.weight.movedim(-1, 1), last.bias)
    torch.testing.assert_close(predictions.groups[1]["dim"], y.movedim(1, -1).reshape(-1, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [2.0, 0.3])
def test_a_perfect_head_finds_every_box_once_and_has_no_loss(share: float) -> None:
    net = head()
    predictions = perfect(net, sites_of(share), [TRUTH, NOTHING])
    first, second = net.detections(predictions)
    order = first.labels.argsort()
    wanted = TRUTH.labels.argsort()
    torch.testing.assert_close(first.boxes[order], TRUTH.boxes[wanted], rtol=1e-4, atol=1e-4)
    assert first.labels[order].tolist() == [0, 1, 2]
    assert len(second.scores) == 0
    assert all(loss < 1e-2 for loss in net.losses(predictions, [TRUTH, NOTHING]).values())


def test_the_nearest_occupied_cell_has_all_the_heat_and_others_less_with_distance() -> None:
    net = head()
    cells = torch.tensor([[3, 3], [5, 4], [9, 4], [25, 4]])
    box = torch.tensor([[-8 + 0.5 * 6.2, -8 + 0.5 * 4.1, -1, 1, 1, 1, 0]])  # at 6.2, 4.1
    target = net.targets(Truth(box, torch.tensor([1])), cells, 2)
    assert target.cells.tolist() == [1]
    torch.testing.assert_close(target.codes[0, :2], torch.tensor([1.2, 0.1]))
    sigma = 5 / 6  # a radius of 2 cells, the least
    assert target.heat[:, 0].tolist() == [0, 0, 0, 0]
    ratio = torch.exp(torch.tensor((1.2**2 + 0.1**2 - 2.8**2 - 0.1**2) / (2 * sigma**2)))
    torch.testing.assert_close(
        target.heat[:, 1], torch.stack([torch.zeros(()), torch.ones(()), ratio, torch.zeros(())])
    )


def test_samples_without_cells_have_no_boxes_and_cost_nothing() -> None:
    net = head()
    sites = Sites(torch.tensor([[1, 0, 5, 7]]), (1, 32, 32), 3)
    predictions = net(torch.randn(1, 6), sites)
    counts = [len(found.scores) for found in net.detections(predictions)]
    assert counts[0] == counts[2] == 0
    assert all(loss.isfinite() for loss in net.losses(predictions, [TRUTH, NOTHING, TRUTH]).values())
    none = net(torch.zeros(0, 6), Sites(torch.zeros(0, 4, dtype=torch.long), (1, 32, 32), 1))
    assert [len(found.scores) for found in net.detections(none)] == [0]
    assert all(loss == 0 for loss in net.losses(none, [TRUTH]).values())


def test_boxes_of_one_group_do_not_overlap_and_groups_do_not_hide_each_other() -> None:
    net = head(least_score=0.0)
    sites = sites_of(0.5, batch=1)
    predictions = net(torch.randn(len(sites), 6), sites)
    (found,) = net.detections(predictions)
    for own in (found.labels == 0, found.labels > 0):
        boxes = found.boxes[own]
        iou = visionssm.rotated_iou(boxes[:, None], boxes)
        assert (iou - torch.eye(len(iou)) <= net.overlap + 1e-6).all()
        assert 0 < len(boxes) <= net.after
    assert (found.scores.diff() <= 0).all()


@pytest.mark.slow
def test_a_detector_of_voxels_alone_is_trained_and_finds_boxes() -> None:
    torch.manual_seed(0)
    detector = visionssm.create_detector(
        "lion_mamba_nano",
        backbone={"kind": "flat", "windows": ((7, 7, 16),) * 3, "group_sizes": (64,) * 3},
        bev=None,
        head={"kind": "sparse_center", "groups": (1, 2)},
    )
    cloud = torch.rand(300, 4) * torch.tensor([30, 9, 2, 1])
    boxes = torch.tensor([[10.0, 2, -1, 4, 1.6, 1.5, 0.3], [20.0, 2, -1, 1, 1, 1.5, 0.3]])
    losses = detector.losses([cloud, cloud[:100]], [Truth(boxes, torch.tensor([0, 2])), NOTHING])
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, x in detector.named_parameters() if x.grad is None or not x.grad.any()] == []
    assert len(detector.eval().detections([cloud])) == 1


def test_heads_of_voxels_take_flat_grids_and_groups_of_all_classes() -> None:
    with pytest.raises(ValueError, match=r"head\.groups=\(1, 1\) must be positive and 3 classes"):
        SparseCenterHead(6, GRID, 3, groups=(1, 1))
    with pytest.raises(ValueError, match="one layer, got 2 layers"):
        head()(torch.zeros(1, 6), Sites(torch.zeros(1, 4, dtype=torch.long), (2, 32, 32), 1))
