"""Top-down pose estimation on COCO's key points for 210 epochs, as HRVMamba's authors train it.

AdamW 5e-4, decay 0.01, 500 steps of warm-up, a tenth from epochs 170 and 200, 8 GPUs; people are mirrored, halved,
moved, scaled and turned. A config that inherits from this sets the network, its drop rates, the size of the crops, the
sigma of the heat maps and the batch of one GPU.

Data: train2017/, val2017/ and annotations/ in the folder named by COCO_ROOT, data/coco by default. Validation is in the
annotated boxes. The published figures are of a detector's, COCO_val2017_detections_AP_H_56_person.json, of which the
config says so with
--cfg-options test_dataloader.dataset.boxes=person_detection_results/COCO_val2017_detections_AP_H_56_person.json
"""

_root = "{{$COCO_ROOT:data/coco}}"
_coco = dict(type="CocoKeypoints", root=_root, classes=["person"])
_val = dict(annotations="annotations/person_keypoints_val2017.json", images="val2017", **_coco)

model = dict(type="PoseEstimator", num_keypoints=17, pretrained_backbone=True)

_loader = dict(num_workers=4, persistent_workers=True, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    dataset=dict(
        annotations="annotations/person_keypoints_train2017.json", images="train2017", augment=dict(), **_coco
    ),
    **_loader,
)
val_dataloader = dict(batch_size=64, sampler=dict(type="DefaultSampler", shuffle=False), dataset=_val, **_loader)
val_evaluator = dict(type="KeypointMetric")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=210, val_interval=10)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[170, 200], gamma=0.1, by_epoch=True, begin=0, end=210),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="ap"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("ap", "ap50", "ap75", "ar")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
