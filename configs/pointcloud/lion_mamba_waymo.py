"""LION with Mamba on Waymo as it is published: 24 epochs of all frames, batch 16 on 8 GPUs, one-cycle Adam.

torchrun --nproc-per-node 8 tools/train.py configs/pointcloud/lion_mamba_waymo.py --launcher pytorch

WAYMO_ROOT (data/waymo) is OpenPCDet's waymo_processed_data with train.txt and val.txt, the sequences' names, beside it
in the same folder. The last epoch has no random changes. The validation is KITTI's measure without difficulties, not
Waymo's own. Published mAP/mAPH of level 2: 75.1/73.2.
"""

_range = (-75.52, -75.52, -2.0, 75.52, 75.52, 4.0)

model = dict(type="PointCloudDetector", name="lion_mamba_waymo")

_frames = dict(
    type="InfoFrames",
    root="{{$WAYMO_ROOT:data/waymo}}",
    source="waymo",
    classes=("Vehicle", "Pedestrian", "Cyclist"),
    point_range=_range,
)
train_dataloader = dict(
    batch_size=2,  # of each of 8 processes
    num_workers=4,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **_frames,
        infos="train.txt",
        pasting=dict(
            counts=dict(Vehicle=15, Pedestrian=10, Cyclist=10), fill=True, least_points=dict(Pedestrian=10, Cyclist=10)
        ),
        changes=[
            dict(type="Flip", axes=("x", "y")),
            dict(type="Rotate", most=45.0),
            dict(type="Scale", low=0.95, high=1.05),
            dict(type="Translate", spread=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**_frames, infos="val.txt", interval=5),
)
val_evaluator = dict(type="KittiMetric", least_points=1)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 24
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=4)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.95, 0.99), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in (".A_logs", ".Ds")}),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = dict(
    type="OneCycle", pct_start=0.1, div_factor=100.0, by_epoch=True, end=_epochs, convert_to_iter_based=True
)
auto_scale_lr = dict(base_batch_size=16)
sync_bn = "torch"
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=3, save_best="ap_3d"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="PrecisionRecallHook"),
    dict(
        type="FiguresHook",
        metrics=(
            "vehicle_3d_70",
            "pedestrian_3d_50",
            "cyclist_3d_50",
        ),
    ),
    dict(type="ChangesEndHook", changes=1),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
