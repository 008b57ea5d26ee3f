"""A small VMamba on the handwritten digits that ship with scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/vmamba_nano_digits.py
"""

_size = (1, 32, 32)

model = dict(
    type="ImageClassifier",
    name="vmamba_nano_test",
    num_classes=10,
    in_chans=1,
    drop_path_rate=0.1,
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    drop_last=True,
    dataset=dict(type="DigitsDataset", split="train", size=32, augment=dict(degrees=10.0, translate=0.06, scale=0.1)),
)
val_dataloader = dict(
    batch_size=150,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="DigitsDataset", split="val", size=32),
)
val_evaluator = dict(type="ClassificationMetric")
val_cfg = dict()

_epochs = 20
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=2, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="top1"),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.02, update_buffers=True),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1",)),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=1)  # the model is too small to gain from more
randomness = dict(seed=0)
