"""A small VM-UNet on slices of a real head, the MNI152 template that nilearn ships: no download, two CPU cores.

python tools/train.py configs/medical/vmunet_nano_mni152.py
python tools/test.py configs/medical/vmunet_nano_mni152.py work_dirs/vmunet_nano_mni152/best.pth

Slabs of slices that are not trained on choose best.pth; tools/test.py measures it on slabs that nothing was chosen by.
All are of one head: the figures say that the network learns, not how well it does on other heads. The work folder gets
predictions.png: slices, their true and predicted tissues.
"""

_prepare = dict(intensity="fixed", mean=100.0, std=60.0)  # all slices are of one image
_data = dict(type="Mni152Slices", prepare=_prepare)

model = dict(type="MedicalSegmentor", name="vmunet_nano", num_classes=4, in_chans=1, loss="ce_dice")

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        split="train",
        repeat=4,
        transforms=[
            dict(type="RandFlipd", prob=0.5, spatial_axis=1),
            dict(type="RandAffined", prob=0.3, rotate_range=0.2, scale_range=(0.1, 0.1), padding_mode="zeros"),
            dict(type="RandShiftIntensityd", prob=0.3, offsets=0.1),
            dict(type="RandGaussianNoised", prob=0.3, std=0.05),
        ],
        **_data,
    ),
)
_loader = dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
val_dataloader = dict(dataset=dict(split="val", **_data), **_loader)
val_evaluator = dict(type="MedicalMetric", regions=dict(brain=["other", "grey matter", "white matter"]))
val_cfg = dict()
test_dataloader = dict(dataset=dict(split="test", **_data), **_loader)
test_evaluator = dict(hd95=True, tolerances=2.0, **val_evaluator)
test_cfg = dict()

_epochs = 16
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=4)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="dice"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("dice", "dice_grey_matter", "dice_white_matter", "dice_brain")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
