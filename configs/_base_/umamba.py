"""Volumes in nnU-Net's form as U-Mamba is trained on them: SGD with a poly schedule, patches, deep supervision.

A config that inherits from this sets `model`, the patches, and `root`. What differs from nnU-Net: fewer kinds of
augmentation; intensities are cut off at every image's own percentiles; no cropping to what is not zero; a fifth of
the cases (fold 0) chooses the model, imagesTs and labelsTs test it. Set `prepare.spacing` to the median spacing of
your set, in mm (depth, height, width).
"""

_prepare = dict(intensity="zscore", percentiles=(0.5, 99.5), spacing=None, order=3)
_data = dict(type="NiftiFolder", root="data/nifti", prepare=_prepare)

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(part="train", **_data),
)
_loader = dict(batch_size=1, num_workers=2, sampler=dict(type="DefaultSampler", shuffle=False))
val_dataloader = dict(dataset=dict(part="val", **_data), **_loader)
val_evaluator = dict(type="MedicalMetric")
val_cfg = dict()
test_dataloader = dict(dataset=dict(part="all", images="imagesTs", labels="labelsTs", **_data), **_loader)
test_evaluator = dict(type="MedicalMetric", hd95=True, tolerances=2.0)
test_cfg = dict()

_steps = 250_000
train_cfg = dict(by_epoch=False, max_iters=_steps, val_interval=5_000)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5), clip_grad=dict(max_norm=12.0)
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, end=_steps)]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type="SafeCheckpointHook", by_epoch=False, interval=5_000, max_keep_ckpts=2, save_best="dice"),
)
log_processor = dict(by_epoch=False)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("dice",)),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
