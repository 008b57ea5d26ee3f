"""torchvision's DeepLab head on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/segmentation/shapes_segmentation_deeplab.py
python tools/test.py configs/segmentation/shapes_segmentation_deeplab.py work_dirs/shapes_segmentation_deeplab/best.pth

The validation images choose best.pth; tools/test.py measures it on images that nothing was chosen by. The work folder
gets predictions.png: image, true and predicted classes of validation images.
"""

_base_ = "../_base_/shapes.py"

_spec = dict(size=64, train=3000, val=100, test=300)

model = dict(
    type="TorchvisionSegmentor",
    name="vmamba_nano_test",
    num_classes=5,
    head="deeplab",
    channels=64,
    atrous_rates=(2, 4, 6),
    auxiliary=True,
    class_weights=(0.25, 1.0, 1.0, 1.0, 1.0),  # five of six pixels are background
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
_loader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
val_dataloader = dict(dataset=dict(type="ShapesSegmentation", split="val", spec=_spec), **_loader)
val_evaluator = dict(type="SegmentationMetric")
test_dataloader = dict(dataset=dict(type="ShapesSegmentation", split="test", spec=_spec), **_loader)
test_evaluator = val_evaluator

_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(save_best="miou"))
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("miou", "mean_accuracy")),
]
