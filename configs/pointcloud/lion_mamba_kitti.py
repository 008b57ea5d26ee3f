"""LION with Mamba on KITTI as it is published: 80 epochs, batch 16 on 8 GPUs, one-cycle Adam, objects pasted on roads.

torchrun --nproc-per-node 8 tools/train.py configs/pointcloud/lion_mamba_kitti.py --launcher pytorch

The set is in KITTI_ROOT (data/kitti): ImageSets/{train,val}.txt, training/{velodyne,calib,label_2,image_2,planes}.
Published 3-D AP of moderate difficulty: car 78.3, pedestrian 60.2, cyclist 68.6. The learning rate holds for a batch
of 16 in all (`--auto-scale-lr` for another).
"""

_range = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)

model = dict(type="PointCloudDetector", name="lion_mamba_kitti")

_frames = dict(type="KittiFrames", root="{{$KITTI_ROOT:data/kitti}}", point_range=_range)
train_dataloader = dict(
    batch_size=2,  # of each of 8 processes
    num_workers=4,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **_frames,
        split="train",
        pasting=dict(counts=dict(Car=15, Pedestrian=10, Cyclist=10)),
        changes=[
            dict(type="Flip"),
            dict(type="Rotate", most=45.0),
            dict(type="Scale", low=0.95, high=1.05),
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**_frames, split="val"),
)
val_evaluator = dict(type="KittiMetric")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 80
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.95, 0.99), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in (".A_logs", ".Ds")}),
    clip_grad=dict(max_norm=10.0),
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
