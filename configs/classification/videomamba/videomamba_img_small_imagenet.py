"""VideoMamba-S on images: 25.8M parameters, 81.2 % published top-1. DeiT's recipe in bfloat16.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/videomamba/videomamba_img_small_imagenet.py --launcher pytorch

An epoch shows a third of the images, each in three views of the same step (repeated augmentation).
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="videomamba_img_small", drop_path_rate=0.15)

train_dataloader = dict(
    batch_size=512,
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(transform=dict(color_jitter=0.3)),
)
optim_wrapper = dict(dtype="bfloat16", optimizer=dict(lr=4e-3, weight_decay=0.05), clip_grad=None)
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    dict(type="LinearLR", start_factor=2.5e-4, by_epoch=True, end=5, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 1e-5
        type="CosineAnnealingLR", eta_min_ratio=2.5e-3, by_epoch=True, begin=5, end=300, convert_to_iter_based=True
    ),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
