"""torchvision's DeepLab head on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/shapes_segmentation_deeplab.py

The work folder gets predictions.png: image, true and predicted classes of held-out images.
"""

_spec = dict(size=64, train=3000, val=100, test=300)

model = dict(
    type="TorchvisionSegmentor",
    name="vmamba_nano_test",
    num_classes=5,
    head="deeplab",
    channels=64,
    atrous_rates=(2, 4, 6),
)

_changes = [
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomVerticalFlip"),
    dict(type="ColorJitter", brightness=0.2, saturation=0.3, hue=0.5),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    drop_last=True,
    dataset=dict(type="ShapesSegmentation", split="train", spec=_spec, transforms=_changes),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ShapesSegmentation", split="val", spec=_spec),
)
val_evaluator = dict(type="SegmentationMetric")
val_cfg = dict()
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ShapesSegmentation", split="test", spec=_spec),
)
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 10
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
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="miou"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("miou", "mean_accuracy")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=0)
