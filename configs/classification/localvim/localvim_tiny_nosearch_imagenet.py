r"""LocalVim-T with the same four routes in every layer: 8.0M parameters. The recipe of the authors, in float32.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/localvim/localvim_tiny_nosearch_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="localvim_tiny_nosearch", drop_path_rate=0.1, mixup=dict(mixup_alpha=0.2))

train_dataloader = dict(dataset=dict(transform=dict(color_jitter=0.3, auto_augment="rand-m9-mstd0.5")))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(weight_decay=0.04), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),  # from 1e-7
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
