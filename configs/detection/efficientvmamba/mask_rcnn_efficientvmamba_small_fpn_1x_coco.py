"""EfficientVMamba-S, Mask R-CNN 1x: box AP (second-hand) 39.3.

The authors train it in mixed precision.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="efficientvmamba_small", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(type="MixedPrecision")
