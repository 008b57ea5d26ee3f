"""Training on rendered shapes with torchvision's heads: optimizer, checkpoints, logs and pictures.

A config that inherits from this sets `model`, the data, `train_cfg`, `param_scheduler` and what `save_best` measures.
"""

val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor="DecayConstructor",
    optimizer=dict(type="AdamW", betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25),
    checkpoint=dict(type="SafeCheckpointHook", interval=1, max_keep_ckpts=2),
)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
randomness = dict(seed=0)
