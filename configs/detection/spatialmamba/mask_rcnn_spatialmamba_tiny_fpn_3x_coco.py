"""Spatial-Mamba-T, Mask R-CNN 3x: published box AP 49.3, mask AP 43.6."""

_base_ = "../../_base_/mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="spatialmamba_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
