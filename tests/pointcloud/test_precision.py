"""Heads say places in float32 whatever autocast makes of the layers before: a cell of a large map has no bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visionssm.pointcloud.heads.anchor import AnchorHead
from visionssm.pointcloud.heads.center import CenterHead
from visionssm.pointcloud.heads.sparse_center import SparseCenterHead
from visionssm.pointcloud.heads.transfusion import TransFusionHead
from visionssm.pointcloud.voxels import Grid, Sites

GRID = Grid((0, -4, -3, 70.4, 4, 1), (0.2, 2, 0.5))  # 352 cells along x, 4 along y
CAR = {"size": (3.9, 1.6, 1.56), "bottom": -1.78, "matched": 0.6, "unmatched": 0.45}


def _silent(module: nn.Module) -> None:
    """Makes a layer say 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.parametrize("amp", [False, True])
def test_anchors_are_where_they_are(amp: bool) -> None:
    head = AnchorHead(4, GRID, 1, anchors=[CAR]).eval()
    _silent(head.conv_box)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        boxes = head.boxes(head(torch.randn(1, 4, 4, 352)))[0].view(4, 352, 2, 7)
    torch.testing.assert_close(boxes[0, :, 0, 0], torch.linspace(0, 70.4, 352))


@pytest.mark.parametrize("amp", [False, True])
def test_centres_are_where_their_cells_are(amp: bool) -> None:
    head = CenterHead(4, GRID, 1, channels=8).eval()
    _silent(head.heads_list[0]["center"])  # type: ignore[index]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        boxes, _ = head.everywhere(head(torch.randn(1, 4, 4, 352)))
    torch.testing.assert_close(boxes[0, :352, 0], 0.2 * torch.arange(352))

    sparse = SparseCenterHead(4, GRID, 1, least_score=0.0, overlap=1.0, after=1000).eval()
    _silent(sparse.heads_list[0]["center"])  # type: ignore[index]
    sites = Sites(torch.stack([torch.zeros(352, dtype=torch.int64)] * 3 + [torch.arange(352)], 1), (1, 4, 352), 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        (found,) = sparse.detections(sparse(torch.randn(352, 4), sites))
    torch.testing.assert_close(found.boxes[:, 0].sort().values, 0.2 * torch.arange(352))


@pytest.mark.parametrize("amp", [False, True])
def test_queries_are_in_the_middle_of_their_cells(amp: bool) -> None:
    head = TransFusionHead(4, GRID, 2, queries=300, channels=16, heads=2, hidden=8, small=(1,), stride=1).eval()
    _silent(head.prediction_head["center"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        predictions = head(torch.randn(1, 4, 4, 352))
    said: Tensor = predictions.branches["center"]
    assert said.dtype == predictions.heat.dtype == torch.float32
    assert bool((said - said.floor() == 0.5).all())
    assert float(said[:, 0].max()) > 256  # where bfloat16 knows every second cell only
