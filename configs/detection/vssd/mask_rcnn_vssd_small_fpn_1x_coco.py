"""VSSD-S, Mask R-CNN 1x: 59M parameters, 325 GFLOPs; published box AP 48.4, mask AP 43.5."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vssd_small", drop_path_rate=0.4),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
