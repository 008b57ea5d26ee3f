"""ImageNet-1k as VMamba, and before it Swin, trains on it: 300 epochs, batch 1024, AdamW, EMA, mixed precision.

A config that inherits from this sets `model.name` and `model.drop_path_rate`. The rates hold for a batch of 1024 in
all; for another batch they are scaled in proportion (`auto_scale_lr`).

Data: a folder (train/CLASS/*.JPEG, val/CLASS/*.JPEG) named by IMAGENET_ROOT; or with
`--cfg-options train_dataloader.dataset.name=hfds/ILSVRC/imagenet-1k val_dataloader.dataset.name=…` whatever timm reads.
"""

_root = "{{$IMAGENET_ROOT:data/imagenet}}"
_normalise = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

model = dict(
    type="ImageClassifier",
    num_classes=1000,
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch"),
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=128,  # of each of 8 processes
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="TimmDataset",
        name="",
        root=_root,
        split="train",
        corrupt="skip",
        transform=dict(
            input_size=(3, 224, 224),
            interpolation="bicubic",
            color_jitter=0.4,
            auto_augment="rand-m9-mstd0.5-inc1",
            re_prob=0.25,
            re_mode="pixel",
            **_normalise,
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="TimmDataset",
        name="",
        root=_root,
        split="val",
        corrupt="skip",
        transform=dict(input_size=(3, 224, 224), interpolation="bicubic", crop_pct=0.875, **_normalise),
    ),
)
val_evaluator = dict(type="ClassificationMetric")
val_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
optim_wrapper = dict(
    type="MixedPrecision",
    constructor="DecayConstructor",  # no decay of norms, biases, A_logs and Ds
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(base_batch_size=1024, enable=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 1e-5
        type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=20, end=300, convert_to_iter_based=True
    ),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=3, save_best="top1"),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4, update_buffers=True),  # decay 0.9999
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend="nccl"))
randomness = dict(seed=0)
