"""EfficientVMamba-B, Mask R-CNN 1x: box AP (second-hand) 43.7.

The authors train it in mixed precision.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="efficientvmamba_base", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(type="MixedPrecision")
