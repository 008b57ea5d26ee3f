"""VM-UNet on Synapse's abdominal CT, from VMamba-S: published Dice 81.08, HD95 19.21 voxels.

python tools/train.py configs/medical/vmunet_synapse.py
python tools/test.py configs/medical/vmunet_synapse.py best.pth --pictures DIR --out metrics.csv

Files as TransUNet prepares them: train_npz, test_vol_h5 and lists/lists_Synapse below data/synapse. What differs from
the authors' code: a fifth of the patients chooses the model, not the lowest training loss; right angles, flips and
rotations are drawn independently, the latter for a quarter of the slices.
"""

_prepare = dict(intensity="none", size=(224, 224), order=3)
_data = dict(type="SliceVolumes", root="data/synapse", prepare=_prepare)
_train = dict(split="train", list="lists/lists_Synapse/train.txt", **_data)
_loader = dict(num_workers=4, persistent_workers=True)

model = dict(
    type="MedicalSegmentor", name="vmunet_synapse", num_classes=9, in_chans=1, loss="ce_dice", pretrained_encoder=True
)

train_dataloader = dict(
    batch_size=32,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        part="train",
        transforms=[
            dict(type="RandRotate90d", prob=0.5, max_k=3),
            dict(type="RandFlipd", prob=0.25, spatial_axis=0),
            dict(type="RandFlipd", prob=0.25, spatial_axis=1),
            dict(type="RandRotated", prob=0.25, range_x=0.349, mode="nearest", padding_mode="zeros"),
        ],
        **_train,
    ),
    **_loader,
)
val_dataloader = dict(
    batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(part="val", **_train), **_loader
)
val_evaluator = dict(type="MedicalMetric")
val_cfg = dict()
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(split="test", list="lists/lists_Synapse/test_vol.txt", **_data),
    num_workers=2,
)
test_evaluator = dict(type="MedicalMetric", hd95=True, voxels=True, empty="medpy")
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2))
param_scheduler = [dict(type="CosineAnnealingLR", T_max=100, eta_min=1e-5, by_epoch=True)]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("dice",)),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="dice"),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=42)
