"""Mask R-CNN of torchvision on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/detection/shapes_detection_maskrcnn.py
python tools/test.py configs/detection/shapes_detection_maskrcnn.py work_dirs/shapes_detection_maskrcnn/best.pth

The validation images choose best.pth; tools/test.py measures it on images that nothing was chosen by. The work folder
gets predictions.png: true and detected objects of validation images.
"""

_base_ = "../_base_/shapes.py"

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
        box_batch_size_per_image=16,  # of at most three objects an image
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
_loader = dict(batch_size=10, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
val_dataloader = dict(dataset=dict(type="ShapesDetection", split="val", spec=_spec), **_loader)
val_evaluator = dict(type="DetectionMetric")
test_dataloader = dict(dataset=dict(type="ShapesDetection", split="test", spec=_spec), **_loader)
test_evaluator = val_evaluator

_epochs = 3
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(save_best="box_ap50"))
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("box_ap50", "box_ap", "mask_ap50", "mask_ap")),
]
