"""VideoMamba-M on images: 74.2M parameters, 82.8 % published top-1. DeiT's recipe in bfloat16.

The authors' is self-distilled: its features are drawn to those of the trained small one, which is not done here.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/videomamba/videomamba_img_middle_imagenet.py --launcher pytorch

An epoch shows a third of the images, each in three views of the same step (repeated augmentation).
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="videomamba_img_middle", drop_path_rate=0.5)

train_dataloader = dict(
    batch_size=128,
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(transform=dict(color_jitter=0.3)),
)
optim_wrapper = dict(dtype="bfloat16", optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0))
auto_scale_lr = dict(base_batch_size=1024)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 1e-5
        type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=5, end=300, convert_to_iter_based=True
    ),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
