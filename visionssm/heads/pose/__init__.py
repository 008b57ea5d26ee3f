"""Top-down pose estimation without the train extra: networks, heat maps, affine maps and the similarity of poses.

model = visionssm.create_pose("hrvmamba_small_pose_256x192")
points, scores = decode(model(crops).numpy())
"""

from visionssm.heads.pose.codec import decode, encode, flip_maps, flip_order
from visionssm.heads.pose.heatmap import HeatmapHead, PoseNetwork
from visionssm.heads.pose.oks import COCO_SIGMAS, oks, oks_nms
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
