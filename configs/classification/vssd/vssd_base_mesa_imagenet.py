"""VSSD-B: 88.8M parameters, 16.1 GFLOPs, 85.4 % published top-1 with MESA.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vssd/vssd_base_mesa_imagenet.py --launcher pytorch

From epoch 75 on the loss has the moving average's predictions as targets too (MESA).
"""

_base_ = "../../_base_/imagenet.py"

model = dict(type="MesaClassifier", name="vssd_base", drop_path_rate=0.6, weight=2.0, begin=75)

optim_wrapper = dict(optimizer=dict(lr=6e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 600, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 6e-6
        type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=True, begin=20, end=300, convert_to_iter_based=True
    ),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4, update_buffers=True),  # decay 0.9999
    dict(type="MesaHook"),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
