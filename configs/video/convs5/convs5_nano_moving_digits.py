"""A small ConvS5 that predicts video: two handwritten digits that bounce around. No download, two CPU cores.

python tools/train.py configs/video/convs5/convs5_nano_moving_digits.py

The work folder gets predicted_frames.png and predicted_frames.gif: true clips beside the model's continuations.
"""

_size, _frames = 32, 16

model = dict(type="NextFramePredictor", name="convs5_nano", context=8)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    drop_last=True,
    dataset=dict(type="MovingDigits", split="train", clips=400, frames=_frames, size=_size),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="MovingDigits", split="val", clips=32, frames=_frames, size=_size),
)
val_evaluator = dict(type="NextFrameMetric")
val_cfg = dict()

_epochs = 16
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=4)
optim_wrapper = dict(
    # all parameters are decayed, as in the published recipe
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.95), weight_decay=1e-5),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=10),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="error", rule="less"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictedFramesHook"),
    dict(type="FiguresHook", metrics=("error", "copy_error")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=2)
randomness = dict(seed=0)
