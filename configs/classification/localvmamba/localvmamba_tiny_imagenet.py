r"""LocalVMamba-T: 25.5M parameters, 5.7 GFLOPs, 82.7 % published top-1. The authors' recipe, in mixed precision.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/localvmamba/localvmamba_tiny_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="localvmamba_tiny", drop_path_rate=0.2, mixup=dict(mixup_alpha=0.2))

train_dataloader = dict(dataset=dict(transform=dict(color_jitter=0.3, auto_augment="rand-m9-mstd0.5")))
optim_wrapper = dict(optimizer=dict(weight_decay=0.04), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-7
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
