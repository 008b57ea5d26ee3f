"""Spatial-Mamba-S, Mask R-CNN 3x: published box AP 50.5, mask AP 44.6."""

_base_ = "../../_base_/mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="spatialmamba_small", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
