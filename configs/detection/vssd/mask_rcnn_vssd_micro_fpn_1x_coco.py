"""VSSD-M, Mask R-CNN 1x: 33M parameters, 220 GFLOPs; published box AP 45.4, mask AP 41.3."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vssd_micro", drop_path_rate=0.1),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
