"""Mamba-YOLO: a one-stage detector whose network needs nothing of the train extra.

from visionssm.heads.yolo import create_yolo, suppress_batch

model = create_yolo("mambayolo_t", num_classes=3).eval()
objects = suppress_batch(*model.predict(images))
"""

from visionssm.heads.yolo.head import (
    REG_MAX,
    STRIDES,
    boxes_to_distances,
    decode,
    distances_to_boxes,
    distribution_to_distances,
    flatten_maps,
    grid_points,
)
from visionssm.heads.yolo.network import MambaYolo
from visionssm.heads.yolo.nms import Objects, suppress, suppress_batch
from visionssm.heads.yolo.variants import PUBLISHED, VARIANTS, create_yolo, list_yolos

__all__ = [
    "PUBLISHED",
    "REG_MAX",
    "STRIDES",
    "VARIANTS",
    "MambaYolo",
    "Objects",
    "boxes_to_distances",
    "create_yolo",
    "decode",
    "distances_to_boxes",
    "distribution_to_distances",
    "flatten_maps",
    "grid_points",
    "list_yolos",
    "suppress",
    "suppress_batch",
]
