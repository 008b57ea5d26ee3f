"""MambaVision-L3-512-21K, UPerNet 160k: mIoU 53.2 (one scale).

Images of 640×640 pixels, in full precision.
The authors' drop path is the 0.2 of classification, since their wrapper does not pass on what their config says.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(name="mambavision_large3_512_21k", window_size=(64, 32), drop_path_rate=0.2),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="RandomResize", scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(2560, 640), keep_ratio=True),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=8e-5, weight_decay=0.05))
