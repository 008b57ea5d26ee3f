"""A small Mamba-YOLO on rendered shapes through mmdet's pipeline and COCO metric: no download, two CPU cores.

python tools/train.py configs/yolo/mambayolo_nano_shapes_mmdet.py
python tools/test.py configs/yolo/mambayolo_nano_shapes_mmdet.py work_dirs/mambayolo_nano_shapes_mmdet/best.pth

`mambayolo_nano_shapes.py` is the same network without mmdet. There, Mosaic makes a third of the images and scale and
shift all; mmdet's Mosaic makes all images or none here, since its RandomAffine cuts a border off that only Mosaic adds.
The set is made in data/shapes, or in the folder named by SHAPES_ROOT.
"""

_root = "{{$SHAPES_ROOT:data/shapes}}"
_spec = dict(size=64, train=3000, val=100, test=300)
_size = (64, 64)
_epochs = 10
_grey = 114

_package = "visionssm.tasks.openmmlab"
custom_imports = dict(
    imports=[f"{_package}.yolo", f"{_package}.shapes", f"{_package}.pictures", "visionssm.tasks.yolo.schedule"]
)
default_scope = "mmdet"

model = dict(
    type="MambaYoloDetector",
    backbone=dict(name="mambayolo_nano"),
    num_classes=4,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[0.0] * 3,
        std=[255.0] * 3,
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_value=_grey / 255,
    ),
)

_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
_fit = [
    dict(type="Resize", scale=_size, keep_ratio=True),
    dict(type="Pad", size=_size, pad_val=dict(img=(_grey,) * 3)),
]
_change = [
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    dataset=dict(
        type="MultiImageMixDataset",
        dataset=dict(type="ShapesCocoDataset", split="train", data_root=_root, spec=_spec, pipeline=_load),
        pipeline=[
            dict(type="Mosaic", img_scale=_size, pad_val=_grey),
            dict(
                type="RandomAffine",
                max_rotate_degree=0.0,
                max_shear_degree=0.0,
                scaling_ratio_range=(0.7, 1.3),
                border=(-_size[0] // 2, -_size[1] // 2),
                border_val=(_grey,) * 3,
            ),
            *_change,
        ],
    ),
)
_dataset = dict(
    type="ShapesCocoDataset",
    data_root=_root,
    spec=_spec,
    test_mode=True,
    pipeline=[
        dict(type="LoadImageFromFile"),
        *_fit,
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
    ],
)
_loader = dict(batch_size=10, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
_metric = dict(type="CocoMetric", metric="bbox")
val_dataloader = dict(dataset=dict(split="val", **_dataset), **_loader)
val_evaluator = dict(ann_file=_root + "/annotations/instances_val.json", **_metric)
test_dataloader = dict(dataset=dict(split="test", **_dataset), **_loader)
test_evaluator = dict(ann_file=_root + "/annotations/instances_test.json", **_metric)

train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor="BiasConstructor",
    optimizer=dict(type="AdamW", lr=4e-3, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = dict(
    type="LinearWithWarmup", warmup=1, bias_lr=0.0, by_epoch=True, end=_epochs, convert_to_iter_based=True
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="coco/bbox_mAP_50"),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="RampedAverage", momentum=0.01, ramp=200, update_buffers=True),
    dict(type="PipelineSwitchHook", switch_epoch=3, switch_pipeline=[*_fit, *_change]),
    dict(type="ProgressHook"),
    dict(type="SamplePicturesHook"),
    dict(type="FiguresHook", metrics=("coco/bbox_mAP_50", "coco/bbox_mAP")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
env_cfg = dict(cpu_threads=1)  # operators on so small maps are no faster on two
