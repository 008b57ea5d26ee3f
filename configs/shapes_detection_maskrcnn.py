"""Mask R-CNN of torchvision on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/shapes_detection_maskrcnn.py

The work folder gets predictions.png: true and detected objects of held-out images.
"""

_size = 64
_spec = dict(size=_size, train=3000, val=100, test=300)

model = dict(
    type="TorchvisionDetector",
    architecture="MaskRCNN",
    name="vmamba_nano_test",
    num_classes=4,
    size=(_size, _size),
    channels=64,
    anchor_sizes=(12, 18, 26, 36, 64),
    options=dict(
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_detections_per_img=20,
    ),
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
    drop_last=True,
    dataset=dict(type="ShapesDetection", split="train", spec=_spec, transforms=_changes),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ShapesDetection", split="val", spec=_spec),
)
val_evaluator = dict(type="DetectionMetric")
val_cfg = dict()
test_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ShapesDetection", split="test", spec=_spec),
)
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 6
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="box_ap50"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("box_ap50", "box_ap", "mask_ap50", "mask_ap")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=0)
