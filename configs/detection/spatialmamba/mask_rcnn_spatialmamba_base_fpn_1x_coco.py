"""Spatial-Mamba-B, Mask R-CNN 1x: 115M parameters, 494 GFLOPs; published box AP 50.4, mask AP 45.1."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="spatialmamba_base", drop_path_rate=0.5),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
