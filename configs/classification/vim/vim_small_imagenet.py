"""Vim-S: 25.8M parameters, 80.5 % published top-1. DeiT's recipe in float32, as the authors train.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vim/vim_small_imagenet.py --launcher pytorch

An epoch shows a third of the images, each in three views of the same step (repeated augmentation).
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vim_small", drop_path_rate=0.05)

train_dataloader = dict(
    batch_size=64,
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(transform=dict(color_jitter=0.3)),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(weight_decay=0.05), clip_grad=None)
auto_scale_lr = dict(base_batch_size=512)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),  # from 1e-6
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=4e-5, update_buffers=True),  # decay 0.99996
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
