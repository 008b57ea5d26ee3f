"""LION with Mamba, small, on rendered street scenes: no download, two CPU cores.

python tools/train.py configs/pointcloud/lion_mamba_nano_scenes.py
python tools/test.py configs/pointcloud/lion_mamba_nano_scenes.py work_dirs/lion_mamba_nano_scenes/best.pth

The scenes are made when they are first used. The validation scenes choose best.pth; tools/test.py measures it on scenes
that nothing was chosen by. The work folder gets predictions.png, boxes seen from above, precision_recall.png
and learning_curves.png with the average precision of every validation.
"""

_spec = dict(train=200, val=30, test=60)
_range = (0.0, -19.2, -3.0, 38.4, 19.2, 1.0)

model = dict(type="PointCloudDetector", name="lion_mamba_nano")

train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="Scenes",
        split="train",
        spec=_spec,
        point_range=_range,
        changes=[dict(type="Flip"), dict(type="Rotate", most=10.0), dict(type="Scale")],
    ),
)
_loader = dict(batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
val_dataloader = dict(dataset=dict(type="Scenes", split="val", spec=_spec, point_range=_range), **_loader)
val_evaluator = dict(type="KittiMetric")
val_cfg = dict()
test_dataloader = dict(dataset=dict(type="Scenes", split="test", spec=_spec, point_range=_range), **_loader)
test_evaluator = val_evaluator
test_cfg = dict()

_epochs = 10
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.95, 0.99), weight_decay=0.01), clip_grad=dict(max_norm=10.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=3, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="ap_3d"),
)
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="PrecisionRecallHook"),
    dict(type="FiguresHook", metrics=("car_bev_50", "car_3d_70", "ap_3d")),
]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
