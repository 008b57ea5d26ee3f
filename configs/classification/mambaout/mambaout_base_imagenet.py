"""MambaOut-Base, timm's model: 84.8M parameters, 84.2 % published top-1.

The authors' recipe: batch 4096, full precision, no EMA.

torchrun --nproc-per-node=8 tools/train.py configs/classification/mambaout/mambaout_base_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="mambaout_base", drop_path_rate=0.6)

train_dataloader = dict(dataset=dict(transform=dict(interpolation="random")))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
train_cfg = dict(max_epochs=310)  # the last ten at the lowest rate
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(lr=4e-3),
    accumulative_counts=4,  # 8 processes of 128 images, four times
    clip_grad=None,
)
auto_scale_lr = dict(enable=False)
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-6
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
