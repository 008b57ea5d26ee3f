"""MambaVision-S, Cascade Mask R-CNN 3x: box AP 52.3, mask AP 45.2.

Windows hold a map of up to 1792 pixels a side. The authors' drop path is the 0.2 of classification, since their wrapper
does not pass on what their config says.
"""

_base_ = "../../_base_/cascade_mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="mambavision_small", window_size=(112, 56), drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
