"""A small Mamba-YOLO on rendered shapes: no download, two CPU cores.

python tools/train.py configs/yolo/mambayolo_nano_shapes.py
python tools/test.py configs/yolo/mambayolo_nano_shapes.py work_dirs/mambayolo_nano_shapes/best.pth

The validation images choose best.pth; tools/test.py measures it on images that nothing was chosen by. The work folder
gets predictions.png: true and detected objects of validation images.
"""

_base_ = "../_base_/shapes.py"

_size = 64
_epochs = 10
_spec = dict(size=64, train=3000, val=100, test=300)

model = dict(type="YoloDetector", name="mambayolo_nano", num_classes=4, size=_size)

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    dataset=dict(
        type="MosaicDetection",
        dataset=dict(type="ShapesDetection", split="train", spec=_spec),
        size=_size,
        mosaic=0.3,
        scale=0.3,
    ),
)
_loader = dict(batch_size=10, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
val_dataloader = dict(dataset=dict(type="ShapesDetection", split="val", spec=_spec), **_loader)
val_evaluator = dict(type="DetectionMetric")
test_dataloader = dict(dataset=dict(type="ShapesDetection", split="test", spec=_spec), **_loader)
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    constructor="BiasConstructor",
    optimizer=dict(lr=4e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = dict(
    type="LinearWithWarmup", warmup=1, bias_lr=0.0, by_epoch=True, end=_epochs, convert_to_iter_based=True
)
default_hooks = dict(checkpoint=dict(save_best="box_ap50"))
custom_hooks = [
    dict(type="EMAHook", ema_type="RampedAverage", momentum=0.01, ramp=200, update_buffers=True),
    dict(type="CloseMosaicHook", epochs=4),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("box_ap50", "box_ap")),
]
