"""Top-down pose estimation without the train extra: networks, heat maps, affine maps and the similarity of poses.

model = visionssm.create_pose("hrvmamba_small_pose_256x192")
points, scores = decode(model(crops).numpy())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visionssm.heads.pose.codec import decode, encode, flip_maps, flip_order
from visionssm.heads.pose.oks import COCO_SIGMAS, oks, oks_nms

if TYPE_CHECKING:
    from visionssm.heads.pose.heatmap import HeatmapHead, PoseNetwork
    from visionssm.heads.pose.registry import VARIANTS, PoseVariant, create_pose, list_poses

__all__ = [
    "COCO_SIGMAS",
    "VARIANTS",
    "HeatmapHead",
    "PoseNetwork",
    "PoseVariant",
    "create_pose",
    "decode",
    "encode",
    "flip_maps",
    "flip_order",
    "list_poses",
    "oks",
    "oks_nms",
]

_NEED_PYTORCH = {
    **dict.fromkeys(("HeatmapHead", "PoseNetwork"), "visionssm.heads.pose.heatmap"),
    **dict.fromkeys(("VARIANTS", "PoseVariant", "create_pose", "list_poses"), "visionssm.heads.pose.registry"),
}
"""Names that are imported when they are first used: heat maps are read without PyTorch."""


def __getattr__(name: str) -> Any:
    if name not in _NEED_PYTORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_NEED_PYTORCH[name]), name)
    return value
