r"""MambaVision-B: 97.7M parameters, 15.0 GFLOPs, 84.2 % published top-1.

The authors' recipe: LAMB, a batch of 4096, 310 epochs of which the last ten are at the lowest rate. From three tenths
of the epochs on the loss has the moving average's predictions as targets too (MESA).

torchrun --nnodes=4 --nproc-per-node=8 tools/train.py \
    configs/classification/mambavision/mambavision_base_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(type="MesaClassifier", name="mambavision_base", drop_path_rate=0.3, weight=1.0, begin=93)

# 128 images of each of 32 processes
train_dataloader = dict(dataset=dict(transform=dict(interpolation="random")))
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
train_cfg = dict(max_epochs=310)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="Lamb", lr=5e-3, betas=(0.9, 0.999), weight_decay=0.075, max_grad_norm=None)
)
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    dict(type="LinearLR", start_factor=2e-4, by_epoch=True, end=35, convert_to_iter_based=True),  # from 1e-6
    dict(  # to 5e-6
        type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=35, end=300, convert_to_iter_based=True
    ),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=2e-4, update_buffers=True),  # decay 0.9998
    dict(type="MesaHook"),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
