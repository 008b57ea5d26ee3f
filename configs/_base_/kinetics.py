"""Kinetics-400 as VideoMamba-Ti trains on it: 70 epochs from ImageNet weights, batch 512 of two clips per video, AdamW.

A config that inherits from this sets `model.name` and `model.drop_path_rate`. Videos of N frames per clip:
`--cfg-options model.model_kwargs.num_frames=N` and `views.frames=N` of the three data sets.

Data: a folder named by KINETICS_ROOT with train.csv, val.csv and test.csv, lines "path label" of paths below it. The
rates hold for a batch of 512 videos in all; for another batch they are scaled in proportion (`auto_scale_lr`).
"""

_root = "{{$KINETICS_ROOT:data/kinetics400}}"
_views = dict(frames=8, size=224)
_lists = dict(type="VideoClips", root=_root, wrong="skip", look=False)

model = dict(type="VideoClassifier", num_classes=400, image_weights=True, model_kwargs=dict(num_frames=8, img_size=224))

train_dataloader = dict(
    batch_size=64,  # of each of 8 processes
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    # an epoch shows half of the videos, each in two clips of the same step
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=2),
    collate_fn=dict(type="default_collate"),
    # erasing and the share of the area are those of the usual recipe of video transformers
    dataset=dict(annotations="train.csv", views=_views, augment=dict(rand_augment=(2, 5), erase=0.25), **_lists),
)
_loader = dict(
    batch_size=16,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(dataset=dict(annotations="val.csv", views=_views, **_lists), **_loader)
val_evaluator = dict(type="VideoClassificationMetric")
val_cfg = dict()
test_dataloader = dict(
    dataset=dict(annotations="test.csv", views=dict(clips=4, crops=3, **_views), **_lists),
    **{**_loader, "batch_size": 2},
)
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=140, val_interval=2)  # 70 times all videos, twice each
optim_wrapper = dict(
    type="MixedPrecision",
    dtype="bfloat16",
    constructor="DecayConstructor",  # no decay of norms, biases, positions and the class token
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.1),
)
auto_scale_lr = dict(base_batch_size=512, enable=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=5e-3, by_epoch=True, end=10, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 1e-6
        type="CosineAnnealingLR", eta_min_ratio=5e-3, by_epoch=True, begin=10, end=140, convert_to_iter_based=True
    ),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=2, max_keep_ckpts=3, save_best="top1"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend="nccl"))
randomness = dict(seed=0)
