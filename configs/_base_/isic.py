"""Skin lesions of ISIC as VM-UNet and MHS-VM are trained on them: 256², AdamW, a cosine that goes down and up.

Folders train/images, train/masks, val/images and val/masks below `root`, as the authors ship them. A config that
inherits from this sets `model` and `root`. What differs from the authors' code: the angle of the rotation is drawn
for every image; a fifth of train/ chooses the model, val/ is the test set that nothing is chosen by; images are
resized before they are turned; figures are of the masks at their own size.
"""

_prepare = dict(intensity="minmax", size=(256, 256))
_data = dict(type="MaskedImages", root="data/isic18", classes=["background", "lesion"], prepare=_prepare)
_train = dict(images="train/images", masks="train/masks", **_data)
_loader = dict(num_workers=4, persistent_workers=True)

train_dataloader = dict(
    batch_size=32,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        part="train",
        transforms=[
            dict(type="RandFlipd", prob=0.5, spatial_axis=1),
            dict(type="RandFlipd", prob=0.5, spatial_axis=0),
            dict(type="RandRotated", prob=0.5, range_x=3.14159265, mode="nearest", padding_mode="zeros"),
        ],
        **_train,
    ),
    **_loader,
)
val_dataloader = dict(
    batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(part="val", **_train), **_loader
)
val_evaluator = dict(type="MedicalMetric", pooled=True)
val_cfg = dict()
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(images="val/images", masks="val/masks", **_data),
    **_loader,
)
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2))
param_scheduler = [dict(type="CosineAnnealingLR", T_max=50, eta_min=1e-5, by_epoch=True)]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("dice", "pooled_dice", "pooled_iou")),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="pooled_dice"),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=42)
