"""MSVMamba-T (first generation), Mask R-CNN 3x: published box AP 48.3, mask AP 43.2."""

_base_ = "../../_base_/mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="msvmamba_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
