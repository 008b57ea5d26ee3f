"""Vim-S+, patches at stride 8: 26.0M parameters, 81.6 % published top-1. Fine-tunes the stride-16 weights.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vim/vim_small_stride8_imagenet.py --launcher pytorch

The learning rate is constant. Positions are resampled from 14x14 to 27x27 patches around the class token.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(
    name="vim_small_stride8",
    pretrained=True,
    drop_path_rate=0.0,
    model_kwargs=dict(
        pretrained_cfg_overlay=dict(
            hf_hub_id="hustvl/Vim-small-midclstok", hf_hub_filename="vim_s_midclstok_80p5acc.pth"
        )
    ),
)

train_dataloader = dict(
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(transform=dict(color_jitter=0.3)),
)
train_cfg = dict(max_epochs=30)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(lr=1e-5, weight_decay=1e-8), clip_grad=None)
param_scheduler = []
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=4e-5, update_buffers=True),  # decay 0.99996
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
