"""MambaVision-T, Cascade Mask R-CNN 3x: box AP 51.1, mask AP 44.3.

Windows hold a map of up to 1792 pixels a side. The authors' drop path is the 0.2 of classification, since their wrapper
does not pass on what their config says.
"""

_base_ = "../../_base_/cascade_mask_rcnn_fpn_3x_coco.py"

model = dict(
    backbone=dict(name="mambavision_tiny", window_size=(112, 56), drop_path_rate=0.2),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
