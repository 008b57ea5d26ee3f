"""pLSTM-Vis-T: 6.3M parameters, 1.4 GFLOPs at 224 pixels. Published pre-training: DeiT III's recipe on 192 pixels.

torchrun --nproc-per-node=8 tools/train.py configs/classification/plstm/plstm_tiny_imagenet.py --launcher pytorch

An epoch shows a third of the images, each in three views of the same step (repeated augmentation). The authors go on
from here at 224 pixels: 20 epochs, batch 512, AdamW from 1e-5 to 1e-6, weight decay 0.1, cross-entropy with smoothing.
"""

_base_ = "../../_base_/imagenet.py"

_size = (3, 192, 192)

model = dict(
    type="BinaryCrossEntropyClassifier",
    name="plstm_vis_t",
    drop_path_rate=0.0,
    label_smoothing=0.0,
    model_kwargs=dict(img_size=192),
)

train_dataloader = dict(
    batch_size=256,
    sampler=dict(type="RepeatedAugmentationSampler", num_repeats=3),
    dataset=dict(transform=dict(input_size=_size, color_jitter=0.3, auto_augment="3a", re_prob=0.0)),
)
val_dataloader = dict(dataset=dict(transform=dict(input_size=_size, crop_pct=1.0)))

_epochs = 800
train_cfg = dict(max_epochs=_epochs)
optim_wrapper = dict(
    dtype="bfloat16",
    optimizer=dict(_delete_=True, type="Lamb", lr=4e-3, weight_decay=0.02, max_grad_norm=None),
    clip_grad=dict(max_norm=1.0),
)
auto_scale_lr = dict(base_batch_size=2048)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=5, end=_epochs, convert_to_iter_based=True),
]
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="CorruptImageHook"),
    dict(type="FiguresHook", metrics=("top1", "top5")),
]
