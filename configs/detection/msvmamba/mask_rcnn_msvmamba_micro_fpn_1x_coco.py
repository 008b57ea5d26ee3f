"""MSVMamba-M, Mask R-CNN 1x: 32M parameters, 201 GFLOPs; published box AP 43.8, mask AP 39.9."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="msvmamba_micro", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
