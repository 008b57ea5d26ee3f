"""VideoMamba-Ti on images: 7.1M parameters, 76.9 % published top-1. DeiT's recipe in bfloat16.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/videomamba/videomamba_img_tiny_imagenet.py --launcher pytorch

Without RandAugment and repeated augmentation.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="videomamba_img_tiny", drop_path_rate=0.0)

train_dataloader = dict(
    batch_size=512,
    dataset=dict(transform=dict(color_jitter=0.3, auto_augment=None)),
)
optim_wrapper = dict(dtype="bfloat16", optimizer=dict(lr=4e-3, weight_decay=0.1), clip_grad=dict(max_norm=5.0))
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
