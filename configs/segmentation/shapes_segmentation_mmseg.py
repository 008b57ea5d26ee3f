"""mmseg's UPerNet on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/segmentation/shapes_segmentation_mmseg.py
python tools/test.py configs/segmentation/shapes_segmentation_mmseg.py work_dirs/shapes_segmentation_mmseg/best.pth

`shapes_segmentation_deeplab.py` is the same task with torchvision's head, without mmseg. The set is made in
data/shapes, or in the folder named by SHAPES_ROOT. The validation images choose best.pth; tools/test.py measures it on
images that nothing was chosen by. The work folder gets predictions.png: true and
predicted classes of validation images.
"""

_base_ = "../_base_/upernet_160k_ade20k_512.py"

_root = "{{$SHAPES_ROOT:data/shapes}}"
_spec = dict(size=64, train=3000, val=100, test=300)
_size = (64, 64)
_head = dict(num_classes=5, norm_cfg=dict(type="BN", requires_grad=True))
_loss = dict(class_weight=[0.25, 1.0, 1.0, 1.0, 1.0])  # five of six pixels are background

_package = "visionssm.tasks.openmmlab"
custom_imports = dict(imports=[f"{_package}.shapes", f"{_package}.pictures"])

model = dict(
    data_preprocessor=dict(size=_size),
    backbone=dict(name="vmamba_nano_test", pretrained=False),
    decode_head=dict(in_channels=[24, 48, 96, 192], channels=48, loss_decode=_loss, **_head),
    auxiliary_head=dict(in_channels=96, channels=32, loss_decode=_loss, **_head),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    sampler=dict(type="DefaultSampler"),
    dataset=dict(
        _delete_=True,
        type="ShapesSegDataset",
        split="train",
        data_root=_root,
        spec=_spec,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomFlip", prob=[0.25, 0.25], direction=["horizontal", "vertical"]),
            dict(type="PackSegInputs"),
        ],
    ),
)
_loader = dict(batch_size=10, num_workers=0, persistent_workers=False)
_dataset = dict(
    _delete_=True,
    type="ShapesSegDataset",
    data_root=_root,
    spec=_spec,
    test_mode=True,
    pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
)
val_dataloader = dict(dataset=dict(split="val", **_dataset), **_loader)
test_dataloader = dict(dataset=dict(split="test", **_dataset), **_loader)

_epochs = 8
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=2, save_best="mIoU"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="SamplePicturesHook"),
    dict(type="FiguresHook", metrics=("mIoU", "mAcc")),
]
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
log_processor = dict(by_epoch=True)
env_cfg = dict(cpu_threads=1)  # operators on so small maps are no faster on two
