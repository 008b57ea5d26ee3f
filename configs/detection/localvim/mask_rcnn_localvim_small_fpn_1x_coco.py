"""LocalVim-S, Mask R-CNN 1x on ViTDet's simple feature pyramid: nothing is published, so the recipe is the usual one.

Drop path is that of classification.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="localvim_small", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 384]),
)
