"""Mask R-CNN with FPN on COCO for 36 epochs with images of many sizes and crops, as DETR draws them.

As `mask_rcnn_fpn_1x_coco.py`, with a tenth of the rate after epochs 27 and 33.
"""

_base_ = "mask_rcnn_fpn_1x_coco.py"

_sizes = [(side, 1333) for side in range(480, 801, 32)]
_resize = dict(type="RandomChoiceResize", scales=_sizes, keep_ratio=True)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=0.5),
            dict(
                type="RandomChoice",
                transforms=[
                    [_resize],
                    [
                        dict(
                            type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True
                        ),
                        dict(
                            type="RandomCrop",
                            crop_type="absolute_range",
                            crop_size=(384, 600),
                            allow_negative_crop=True,
                        ),
                        _resize,
                    ],
                ],
            ),
            dict(type="PackDetInputs"),
        ]
    )
)
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
