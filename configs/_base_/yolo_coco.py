"""COCO as Mamba-YOLO's authors train on it: 300 epochs from random weights, batch 512, SGD, images of 640 pixels.

A config that inherits from this sets `model.name`. The decay is 5e-4 · batch / 64; for another batch change it in
proportion. Below a batch of 64 set `optim_wrapper.accumulative_counts` to 64 / batch and leave the decay at 5e-4.

Data: COCO 2017 (annotations/instances_{train,val}2017.json, train2017/, val2017/) in the folder named by COCO_ROOT.
"""

_root = "{{$COCO_ROOT:data/coco}}"
_size = 640
_epochs = 300

model = dict(type="YoloDetector", num_classes=80, size=_size)

train_dataloader = dict(
    batch_size=64,  # of each of 8 processes
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="MosaicDetection",
        size=_size,
        dataset=dict(
            type="CocoInstances",
            root=_root,
            annotations="annotations/instances_train2017.json",
            images="train2017",
            wrong="skip",  # two boxes of COCO have no area
        ),
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoInstances",
        root=_root,
        annotations="annotations/instances_val2017.json",
        images="val2017",
        masks=False,
    ),
)
val_evaluator = dict(type="DetectionMetric")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=1)
optim_wrapper = dict(
    type="MixedPrecision",
    constructor="BiasConstructor",  # no decay of norms and biases
    optimizer=dict(type="SGD", lr=0.01, momentum=0.937, weight_decay=4e-3),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = dict(  # rates to 1e-4; biases from 0.1, momentum from 0.8
    type="LinearWithWarmup", end_share=0.01, warmup=3, by_epoch=True, end=_epochs, convert_to_iter_based=True
)

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=3, save_best="box_ap"),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="RampedAverage", momentum=1e-4, ramp=2000, update_buffers=True),
    dict(type="CloseMosaicHook", epochs=10),
    dict(type="EarlyStoppingHook", monitor="box_ap", rule="greater", patience=100),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("box_ap50", "box_ap")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend="nccl"))
randomness = dict(seed=0)
