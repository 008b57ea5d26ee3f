"""EfficientViM-M4, Mask R-CNN 1x on three maps of strides 16, 32 and 64.

The authors' recipe was not at hand: this is the usual one, with smaller anchors because there is no map of stride 4 or
8. It has never been run to the end, and nothing is published that it could be compared with.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

_strides = [16, 32, 64]
# An object of 224 pixels covers 14 cells of the finest map, as one of the usual 56 pixels does at stride 4.
_roi_layers = dict(featmap_strides=_strides, finest_scale=224)

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(name="efficientvim_m4", out_indices=(0, 1, 2)),
    neck=dict(in_channels=[224, 320, 512], num_outs=4),
    rpn_head=dict(anchor_generator=dict(scales=[2, 4], strides=[*_strides, 128])),
    roi_head=dict(bbox_roi_extractor=_roi_layers, mask_roi_extractor=_roi_layers),
)
