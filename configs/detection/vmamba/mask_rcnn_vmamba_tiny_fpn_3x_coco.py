"""VMamba-T, Mask R-CNN 3x: published box AP 48.8, mask AP 43.7.

Drop path is that of classification.
"""

_base_ = "../../_base_/mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="vmamba_tiny_s1l8", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
