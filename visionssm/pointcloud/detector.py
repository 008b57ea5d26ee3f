"""Detectors of objects in point clouds: from points to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from visionssm.pointcloud.backbone import BACKBONES
from visionssm.pointcloud.bev import BEV_NETS, seen_from_above
from visionssm.pointcloud.boxes import BOX, Detections, Truth
from visionssm.pointcloud.heads import HEADS
from visionssm.pointcloud.keys import checkpoint_filter_fn
from visionssm.pointcloud.voxels import Grid, VoxelEncoder

__all__ = ["LionDetector", "checkpoint_filter_fn"]


class LionDetector(nn.Module):
    """LION with a network and a head on the map seen from above (arXiv 2407.18232).

    Args:
        classes: names.
        point_range: x, y, z of the lowest and of the highest corner of the space that is looked at, in metres.
        voxel_size: x, y, z in metres.
        point_features: numbers of a point; the first three are x, y, z.
        dim: channels of a voxel.
        backbone: `kind`, a name of `BACKBONES` ("stages" without one), and its further arguments.
        bev: `kind`, a name of `BEV_NETS`, and its arguments; None for a head that takes voxels.
        head: `kind`, a name of `HEADS`, and its arguments.
        norm_momentum: share of a batch's statistics in the running ones of all batch norms, 0 to 1; None for the
            published one, 0.01, with which they need hundreds of steps: more than a short training has.
    Raises:
        ValueError: a kind is unknown or a value is out of range.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        point_features: int = 4,
        dim: int = 64,
        backbone: Mapping[str, Any],
        bev: Mapping[str, Any] | None,
        head: Mapping[str, Any],
        norm_momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.grid = Grid(tuple(point_range), tuple(voxel_size))
        self.classes = list(classes)
        self.point_features = point_features
        self.vfe = VoxelEncoder(self.grid, point_features, (dim, dim))
        make, arguments = _chosen({"kind": "stages", **backbone}, BACKBONES, "backbone")
        self.backbone_3d = make(dim, **arguments)
        channels, self.backbone_2d = dim, None
        if bev is not None:
            make, arguments = _chosen(bev, BEV_NETS, "bev")
            self.backbone_2d = make(dim * self.backbone_3d.height(self.grid.shape[0]), **arguments)
            channels = self.backbone_2d.out_channels
        make, arguments = _chosen(head, HEADS, "head")
        self.dense_head = make(channels, self.grid, len(self.classes), **arguments)
        if norm_momentum is not None:
            self._set_momentum(norm_momentum)

    def _set_momentum(self, momentum: float) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(f"norm_momentum={momentum} must be above 0 and at most 1")
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = momentum

    @property
    def box_columns(self) -> tuple[str, ...]:
        """Names of the numbers of a found box: x, y, z, length, width, height, heading, and those of a velocity."""
        return tuple(getattr(self.dense_head, "box", BOX))

    def forward(self, clouds: Sequence[Tensor]) -> Any:
        """The head's predictions for clouds (N_i, point_features) of a batch."""
        output = self.backbone_3d(*self.vfe(clouds)).output
        if self.backbone_2d is None:
            return self.dense_head(*output)
        return self.dense_head(self.backbone_2d(seen_from_above(*output)))

    def losses(self, clouds: Sequence[Tensor], truths: Sequence[Truth]) -> dict[str, Tensor]:
        """The head's losses of a batch."""
        return self.dense_head.losses(self(clouds), truths)

    def detections(self, clouds: Sequence[Tensor]) -> list[Detections]:
        """What is found in every cloud."""
        return self.dense_head.detections(self(clouds))


def _chosen(part: Mapping[str, Any], kinds: Mapping[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """The class that a part of a configuration names, and the arguments for it."""
    arguments = dict(part)
    kind = arguments.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"{name}.kind={kind!r} is unknown; choose one of {', '.join(sorted(kinds))}")
    return kinds[kind], arguments
