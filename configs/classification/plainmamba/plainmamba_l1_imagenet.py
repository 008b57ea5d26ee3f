r"""PlainMamba-L1: 7.6M parameters, 77.9 % published top-1. The authors' recipe, in half precision.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/plainmamba/plainmamba_l1_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="plainmamba_l1", drop_path_rate=0.2)

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=2048)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=15, convert_to_iter_based=True),  # from 2e-6
    dict(  # to 2e-5
        type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=15, end=300, convert_to_iter_based=True
    ),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
