"""mmdet's Mask R-CNN on a small VMamba, on rendered shapes: no download, two CPU cores.

python tools/train.py configs/detection/shapes_detection_mmdet.py
python tools/test.py configs/detection/shapes_detection_mmdet.py work_dirs/shapes_detection_mmdet/best.pth

`shapes_detection_maskrcnn.py` is the same with torchvision's Mask R-CNN, without mmdet. The set is made in
data/shapes, or in the folder named by SHAPES_ROOT. The validation images choose best.pth; tools/test.py measures it on
images that nothing was chosen by. The work folder gets predictions.png: true and
detected objects of validation images.
"""

_base_ = "../_base_/mask_rcnn_fpn_1x_coco.py"

_root = "{{$SHAPES_ROOT:data/shapes}}"
_spec = dict(size=64, train=3000, val=100, test=300)
_size = (64, 64)
_channels = 64
_classes = 4

_package = "visionssm.tasks.openmmlab"
custom_imports = dict(imports=[f"{_package}.shapes", f"{_package}.pictures"])

model = dict(
    backbone=dict(name="vmamba_nano_test", pretrained=False),
    neck=dict(in_channels=[24, 48, 96, 192], out_channels=_channels),
    rpn_head=dict(
        in_channels=_channels,
        feat_channels=_channels,
        anchor_generator=dict(scales=[2.5]),  # of 10 to 160 pixels
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=_channels, finest_scale=16),
        bbox_head=dict(in_channels=_channels, fc_out_channels=256, num_classes=_classes),
        mask_roi_extractor=dict(out_channels=_channels, finest_scale=16),
        mask_head=dict(num_convs=2, in_channels=_channels, conv_out_channels=_channels, num_classes=_classes),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=16)),  # of at most three objects an image
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)),
)

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    batch_sampler=None,
    dataset=dict(
        _delete_=True,
        type="ShapesCocoDataset",
        split="train",
        data_root=_root,
        spec=_spec,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=[0.25, 0.25], direction=["horizontal", "vertical"]),
            dict(type="PackDetInputs"),
        ],
    ),
)
_test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=_size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
_loader = dict(batch_size=10, num_workers=0, persistent_workers=False)
_dataset = dict(
    _delete_=True,
    type="ShapesCocoDataset",
    data_root=_root,
    spec=_spec,
    test_mode=True,
    pipeline=_test_pipeline,
)
val_dataloader = dict(dataset=dict(split="val", **_dataset), **_loader)
val_evaluator = dict(ann_file=_root + "/annotations/instances_val.json")
test_dataloader = dict(dataset=dict(split="test", **_dataset), **_loader)
test_evaluator = dict(ann_file=_root + "/annotations/instances_test.json")

_epochs = 3
train_cfg = dict(max_epochs=_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(max_keep_ckpts=2, save_best="coco/bbox_mAP_50"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="SamplePicturesHook"),
    dict(type="FiguresHook", metrics=("coco/bbox_mAP_50", "coco/bbox_mAP", "coco/segm_mAP_50", "coco/segm_mAP")),
]
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
env_cfg = dict(cpu_threads=1)  # operators on so small maps are no faster on two
