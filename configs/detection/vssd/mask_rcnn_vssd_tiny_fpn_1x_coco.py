"""VSSD-T, Mask R-CNN 1x: 44M parameters, 265 GFLOPs; published box AP 46.9, mask AP 42.6."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vssd_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
