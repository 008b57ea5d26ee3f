r"""Spatial-Mamba-T: 26.7M parameters, 4.5 GFLOPs, 83.5 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/spatialmamba/spatialmamba_tiny_imagenet.py --launcher pytorch

From epoch 75 on the loss has the moving average's predictions as targets too (MESA).
"""

_base_ = "../../_base_/imagenet.py"

model = dict(type="MesaClassifier", name="spatialmamba_tiny", drop_path_rate=0.2, weight=1.0, begin=75)

custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4, update_buffers=True),  # decay 0.9999
    dict(type="MesaHook"),
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
