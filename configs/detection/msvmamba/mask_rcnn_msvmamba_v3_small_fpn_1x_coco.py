"""MSVMambav3-S, Mask R-CNN 1x: 70M parameters, 349 GFLOPs; published box AP 48.1, mask AP 43.2."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="msvmamba_v3_small", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
