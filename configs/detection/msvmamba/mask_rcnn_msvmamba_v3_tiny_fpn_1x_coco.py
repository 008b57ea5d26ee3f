"""MSVMambav3-T, Mask R-CNN 1x: 52M parameters, 275 GFLOPs; published box AP 46.9, mask AP 42.5."""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="msvmamba_v3_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
