"""VSSD-M, Mask R-CNN 3x: published box AP 47.7, mask AP 42.8."""

_base_ = "../../_base_/mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="vssd_micro", drop_path_rate=0.1),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
