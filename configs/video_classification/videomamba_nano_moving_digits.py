"""A small VideoMamba that tells which digit moves in which direction: 40 classes, no download, two CPU cores.

python tools/train.py configs/video_classification/videomamba_nano_moving_digits.py

Which digit it is shows in every frame, where it goes only in their order. The validation clips choose best.pth;
tools/test.py measures it on clips of handwriting that nothing was chosen by.
"""

_clips = dict(type="MovingDigitDirections", frames=8, size=24)

model = dict(
    type="VideoClassifier",
    name="videomamba_nano",
    num_classes=40,
    in_chans=1,
    # tubelets of two frames; the mean of their tokens learns from fewer clips than the class token
    model_kwargs=dict(num_frames=8, tubelet_size=2, img_size=24, patch_size=6, global_pool="avg"),
)

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    drop_last=True,
    dataset=dict(split="train", clips=4000, **_clips),
)
_loader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(dataset=dict(split="val", clips=400, **_clips), **_loader)
val_evaluator = dict(type="VideoClassificationMetric", keep=4)
val_cfg = dict()
test_dataloader = dict(dataset=dict(split="test", clips=1000, **_clips), **_loader)
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="top1"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=2)
randomness = dict(seed=0)
