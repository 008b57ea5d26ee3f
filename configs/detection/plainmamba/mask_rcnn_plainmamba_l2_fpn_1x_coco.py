"""PlainMamba-L2, Mask R-CNN 1x on ViTDet's simple feature pyramid, in place of the authors' ViT-Adapter.

The recipe is the published one, which is the usual one; drop path is that of the segmentor.
"""

_base_ = "../../_base_/mask_rcnn_fpn_1x_coco.py"

model = dict(
    backbone=dict(name="plainmamba_l2", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 384]),
)
