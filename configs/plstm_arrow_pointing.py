"""A small pLSTM on arrow pointing (does the arrow's ray hit the disc?), drawn as it trains: no download, two CPU cores.

python tools/train.py configs/plstm_arrow_pointing.py

It trains on canvases of 192 pixels. `tools/test.py` with the checkpoint then tells the accuracy on canvases of 384,
where distances are up to twice as long as any in training (extrapolation), and with
`--cfg-options test_dataloader.dataset.split=test` that on new canvases of 192. The published models divide canvases of
full resolution into 12×12 patches; this one divides canvases of half the resolution into 6×6, and has a fortieth of the
parameters.
"""

_shrink = 2
_size = 192 // _shrink

model = dict(
    type="ImageClassifier",
    name="plstm_ape",
    num_classes=2,
    model_kwargs=dict(img_size=_size, embed_dim=48, num_heads=3, depth=2),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    drop_last=True,
    dataset=dict(type="ArrowPointingDataset", split="train", samples=12800, shrink=_shrink),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ArrowPointingDataset", split="val", samples=1024, shrink=_shrink),
)
test_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="ArrowPointingDataset", split="test_ext", samples=1024, shrink=_shrink),
)
val_evaluator = dict(type="ClassificationMetric")
test_evaluator = dict(type="ClassificationMetric")
val_cfg = dict()
test_cfg = dict()

_epochs = 6
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=2)
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="top1"),
)
custom_hooks = [dict(type="ProgressHook"), dict(type="FiguresHook", metrics=("top1",))]
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
