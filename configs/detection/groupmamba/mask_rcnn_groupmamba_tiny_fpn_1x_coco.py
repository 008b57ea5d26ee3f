"""GroupMamba-T, Mask R-CNN 1x: box AP (second-hand) 47.6, mask AP 42.9.

The authors publish no code for this: drop path is that of classification, the rest the usual recipe.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="groupmamba_tiny", drop_path_rate=0.05),
    neck=dict(in_channels=[64, 128, 348, 448]),
)
