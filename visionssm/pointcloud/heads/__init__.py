"""Heads: from a map seen from above to boxes.

A head is a module with `losses(predictions, truths)` and `detections(predictions)` beside its `forward`, which makes
the predictions. It is made from the map's channels, the grid, the number of classes, and what the configuration says.
"""

from __future__ import annotations

from torch import nn

from visionssm.pointcloud.heads.anchor import AnchorHead
from visionssm.pointcloud.heads.center import CenterHead
from visionssm.pointcloud.heads.sparse_center import SparseCenterHead
from visionssm.pointcloud.heads.transfusion import TransFusionHead

HEADS: dict[str, type[nn.Module]] = {
    "anchor": AnchorHead,
    "center": CenterHead,
    "sparse_center": SparseCenterHead,
    "transfusion": TransFusionHead,
}
"""Name in a configuration, and class. `SparseCenterHead` takes voxels of a grid of height 1 in place of a map."""
