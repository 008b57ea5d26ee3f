"""VMamba-S, Mask R-CNN 1x: published box AP 48.7, mask AP 43.7.

Drop path is that of classification.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vmamba_small_s2l15", drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
