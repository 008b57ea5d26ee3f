"""LION with Mamba on nuScenes as it is published: 36 epochs, batch 16 on 8 GPUs, one-cycle Adam, ten sweeps.

torchrun --nproc-per-node 8 tools/train.py configs/pointcloud/lion_mamba_nuscenes.py --launcher pytorch

NUSCENES_ROOT (data/nuscenes) has OpenPCDet's nuscenes_infos_10sweeps_{train,val}.pkl, samples/, sweeps/. The last four
epochs have no pasted objects. The validation is KITTI's measure without difficulties, not nuScenes' own. Published
NDS/mAP: 72.1/68.0.
"""

_range = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)

model = dict(type="PointCloudDetector", name="lion_mamba_nuscenes")

_frames = dict(
    type="InfoFrames",
    root="{{$NUSCENES_ROOT:data/nuscenes}}",
    source="nuscenes",
    sweeps=10,
    crop_height=True,
    classes=(
        "car",
        "truck",
        "construction_vehicle",
        "bus",
        "trailer",
        "barrier",
        "motorcycle",
        "bicycle",
        "pedestrian",
        "traffic_cone",
    ),
    point_range=_range,
)
train_dataloader = dict(
    batch_size=2,  # of each of 8 processes
    num_workers=4,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **_frames,
        infos="nuscenes_infos_10sweeps_train.pkl",
        pasting=dict(
            counts=dict(
                car=2,
                truck=3,
                construction_vehicle=7,
                bus=4,
                trailer=6,
                barrier=2,
                motorcycle=6,
                bicycle=6,
                pedestrian=2,
                traffic_cone=2,
            ),
            fill=True,
        ),
        changes=[
            dict(type="Flip", axes=("x", "y")),
            dict(type="Rotate", most=45.0),
            dict(type="Scale", low=0.9, high=1.1),
            dict(type="Translate", spread=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**_frames, infos="nuscenes_infos_10sweeps_val.pkl"),
)
val_evaluator = dict(type="KittiMetric", least_points=1)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 36
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=4)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.95, 0.99), weight_decay=0.05),
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
            "ap_3d",
        ),
    ),
    dict(type="ChangesEndHook", pasting=4),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
