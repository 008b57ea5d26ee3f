"""HRVMamba-B, Mask R-CNN 1x: nothing is published, so drop path is that of its segmentor, the rest the usual recipe.

The feature pyramid reads that of the backbone's neck, its levels 4 to 7.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="hrvmamba_base", out_indices=(4, 5, 6, 7), drop_path_rate=0.15),
    neck=dict(in_channels=[128, 256, 512, 2048]),
)
