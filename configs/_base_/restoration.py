"""Restoration as MambaIR is trained, and SwinIR before it: Adam, halved learning rates, patches, no decay, no EMA.

A config that inherits from this sets `model`, the data sets, the batch of each process, `train_cfg.max_iters` and the
milestones. Bad images are made while they are read. Folders are below RESTORATION_ROOT (data/restoration by default):
any folder of images serves for training, and Set5, B100, Urban100, CBSD68, LIVE1 and Classic5 for testing.
"""

train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="RestorationFolder", root="{{$RESTORATION_ROOT:data/restoration}}"),
)
_loader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    dataset=dict(type="RestorationFolder", root="{{$RESTORATION_ROOT:data/restoration}}", images="Set5"), **_loader
)
val_evaluator = dict(type="RestorationMetric")
val_cfg = dict()
test_dataloader = dict(
    dataset=dict(type="RestorationFolder", root="{{$RESTORATION_ROOT:data/restoration}}", images="Urban100"), **_loader
)
test_evaluator = dict(type="RestorationMetric")
test_cfg = dict()

train_cfg = dict(by_epoch=False, max_iters=500_000, val_interval=5_000)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0))
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[250_000, 400_000, 450_000, 475_000], gamma=0.5)]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type="SafeCheckpointHook", by_epoch=False, interval=5_000, max_keep_ckpts=2, save_best="psnr"),
)
log_processor = dict(by_epoch=False)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("psnr", "ssim")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
