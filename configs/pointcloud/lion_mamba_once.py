"""LION with Mamba on ONCE as it is published: 80 epochs, batch 16 on 8 GPUs, one-cycle Adam.

torchrun --nproc-per-node 8 tools/train.py configs/pointcloud/lion_mamba_once.py --launcher pytorch

ONCE_ROOT (data/once) has OpenPCDet's once_infos_{train,val}.pkl, and data/SEQUENCE/lidar_roof/FRAME.bin. The validation
is KITTI's measure without difficulties, not ONCE's own. Published AP: vehicle 78.2, pedestrian 53.2, cyclist 68.5.
"""

_range = (-75.2, -75.2, -5.0, 75.2, 75.2, 3.0)

model = dict(type="PointCloudDetector", name="lion_mamba_once")

_frames = dict(
    type="InfoFrames",
    root="{{$ONCE_ROOT:data/once}}",
    source="once",
    classes=("Car", "Bus", "Truck", "Pedestrian", "Cyclist"),
    point_range=_range,
)
train_dataloader = dict(
    batch_size=2,  # of each of 8 processes
    num_workers=4,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **_frames,
        infos="once_infos_train.pkl",
        pasting=dict(counts=dict(Car=1, Bus=4, Truck=3, Pedestrian=2, Cyclist=2), fill=True),
        changes=[
            dict(type="Flip", axes=("x", "y")),
            dict(type="Rotate", most=45.0),
            dict(type="Scale", low=0.95, high=1.05),
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**_frames, infos="once_infos_val.pkl"),
)
val_evaluator = dict(type="KittiMetric", least_points=1)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 80
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.95, 0.99), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in (".A_logs", ".Ds")}),
    clip_grad=dict(max_norm=35.0),
)
param_scheduler = dict(
    type="OneCycle", pct_start=0.4, div_factor=10.0, by_epoch=True, end=_epochs, convert_to_iter_based=True
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
            "car_3d_70",
            "pedestrian_3d_50",
            "cyclist_3d_50",
        ),
    ),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
