"""LION with Mamba, small, on a handful of real frames in KITTI's format: trained and measured on the same ones.

KITTI_MINI=FOLDER python tools/train.py configs/pointcloud/lion_mamba_nano_kitti_mini.py

FOLDER (data/kitti_mini unless KITTI_MINI says otherwise) has ImageSets/trainval.txt and training/{velodyne,calib,
label_2,image_2}. It tells whether a network can learn what is in real sweeps, not how good it is: nothing is held out.
Objects with fewer than five points are neither asked for nor wrong.
"""

_range = (0.0, -25.6, -3.0, 64.0, 25.6, 1.0)

model = dict(
    type="PointCloudDetector",
    name="lion_mamba_nano",
    changes=dict(
        point_range=_range,
        dim=24,
        head=dict(overlap=0.2),  # pedestrians stand close to each other
        norm_momentum=0.1,  # with the published 0.01 running statistics are behind after so few steps
    ),
)

_frames = dict(type="KittiFrames", root="{{$KITTI_MINI:data/kitti_mini}}", split="trainval", point_range=_range)
train_dataloader = dict(
    batch_size=5,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(changes=None, **_frames),
)
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=_frames)
val_evaluator = dict(type="KittiMetric", keep=5, least_points=5)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 100
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=25)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=6e-3, betas=(0.95, 0.99), weight_decay=0.01), clip_grad=dict(max_norm=10.0)
)
param_scheduler = dict(type="OneCycle", pct_start=0.3, by_epoch=True, end=_epochs, convert_to_iter_based=True)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="SafeCheckpointHook", interval=25, max_keep_ckpts=2, save_best="ap_3d"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="PrecisionRecallHook"),
    dict(type="FiguresHook", metrics=("car_3d_70", "pedestrian_3d_50", "cyclist_3d_50", "ap_3d")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
