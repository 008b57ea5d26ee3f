"""VMamba-B, Mask R-CNN 1x: published box AP 49.2, mask AP 44.1.

Drop path is that of classification.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="vmamba_base_s2l15", drop_path_rate=0.6),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
