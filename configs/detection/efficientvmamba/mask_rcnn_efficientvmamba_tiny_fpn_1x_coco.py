"""EfficientVMamba-T, Mask R-CNN 1x: box AP (second-hand) 35.6.

The authors train it in mixed precision.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="efficientvmamba_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
optim_wrapper = dict(type="MixedPrecision")
