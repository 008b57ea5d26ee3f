"""VSSD-S: 40.1M parameters, 7.4 GFLOPs, 84.1 % published top-1 without MESA.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vssd/vssd_small_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vssd_small", drop_path_rate=0.4)

optim_wrapper = dict(optimizer=dict(lr=6e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 600, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 6e-6
        type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=20, end=300, convert_to_iter_based=True
    ),
]
