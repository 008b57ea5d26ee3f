"""Spatial-Mamba-S, Mask R-CNN 1x: 63M parameters, 315 GFLOPs; published box AP 49.2, mask AP 44.0."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="spatialmamba_small", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
