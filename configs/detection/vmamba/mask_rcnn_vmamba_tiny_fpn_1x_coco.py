"""VMamba-T, Mask R-CNN 1x: 50M parameters, 271 GFLOPs; published box AP 47.3, mask AP 42.7.

Drop path is that of classification.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vmamba_tiny_s1l8", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
