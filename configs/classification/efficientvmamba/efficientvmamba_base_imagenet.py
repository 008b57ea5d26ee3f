r"""EfficientVMamba-B: 33.7M parameters, 4.0 GFLOPs, 81.8 % published top-1. The recipe of the authors' logs.

torchrun --nnodes=2 --nproc-per-node=8 tools/train.py \
    configs/classification/efficientvmamba/efficientvmamba_base_imagenet.py --launcher pytorch

The learning rate is that of the authors' 16 processes, a batch of 1024 in all; the warm-up rises once per epoch.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="efficientvmamba_base", drop_path_rate=0.1, mixup=dict(mixup_alpha=0.2))

train_dataloader = dict(batch_size=64, dataset=dict(transform=dict(auto_augment="rand-m9-mstd0.5")))
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.04), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=5e-5, by_epoch=True, end=20),  # from 1e-7
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=300),
]
