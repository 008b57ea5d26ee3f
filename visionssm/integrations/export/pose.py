"""Pose estimators in the form that a file holds: crops of people to heat maps."""

from __future__ import annotations

from collections.abc import Mapping

from visionssm.heads.pose.codec import MULTIPLE
from visionssm.heads.pose.heatmap import PoseNetwork
from visionssm.integrations.export.exportable import Exportable


def exportable_pose(network: PoseNetwork, about: Mapping[str, str] | None = None) -> Exportable:
    """(B, 3, H, W) crops, normalised as the network takes them, to `heatmaps`, (B, K, H/4, W/4).

    `visionssm.heads.pose.decode`, which needs nothing but NumPy, reads the points from the heat maps. Open sides are
    multiples of 32.

    Args:
        network: crops to heat maps.
        about: what the file says of itself.
    """
    return Exportable(
        network,
        outputs=("heatmaps",),
        input="crops",
        multiple=MULTIPLE,
        shape=(1, 3, *network.crop_size),
        about=about or {},
    )
