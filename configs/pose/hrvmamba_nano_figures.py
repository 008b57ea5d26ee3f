"""Top-down pose estimation with a small HRVMamba on rendered stick figures: no download, two CPU cores.

python tools/train.py configs/pose/hrvmamba_nano_figures.py

The validation images choose best.pth; tools/test.py measures it on images that nothing was chosen by, in their true
boxes, with the flip test. The work folder gets predictions.png: true and found joints of validation images.
"""

_base_ = "../_base_/shapes.py"

_spec = dict(size=128, train=1200, val=60, test=300)
_crops = dict(type="Figures", spec=_spec, size=(128, 96), sigma=1.5)

model = dict(type="PoseEstimator", name="hrvmamba_nano_pose", num_keypoints=14)

_augment = dict(half_body=0.0, scale=0.25, rotation=30.0)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(split="train", augment=_augment, **_crops),
)
_loader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(dataset=dict(split="val", **_crops), **_loader)
val_evaluator = dict(type="KeypointMetric")
test_dataloader = dict(dataset=dict(split="test", **_crops), **_loader)
test_evaluator = val_evaluator

_epochs = 10
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(save_best="ap"))
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("ap", "ap50", "pck20")),
]
