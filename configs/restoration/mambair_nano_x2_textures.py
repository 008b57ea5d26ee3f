"""Super-resolution ×2 with a small MambaIR on rendered shapes and textures: no download, two CPU cores.

python tools/train.py configs/restoration/mambair_nano_x2_textures.py

The validation images choose best.pth; tools/test.py measures it on images that nothing was chosen by. The work folder
gets predictions.png: bicubic interpolation, the network's image and the true one.
"""

_base_ = "../_base_/shapes.py"

_pairs = dict(type="RenderedTextures", degradation=dict(type="downscale", scale=2))

model = dict(type="ImageRestorer", name="mambair_nano_x2")

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(split="train", patch=16, repeat=4, **_pairs),
)
_loader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(dataset=dict(split="val", **_pairs), **_loader)
val_evaluator = dict(type="RestorationMetric")
test_dataloader = dict(dataset=dict(split="test", **_pairs), **_loader)
test_evaluator = dict(type="RestorationMetric")

_epochs = 16
train_cfg = dict(by_epoch=True, max_epochs=_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=4e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=1, end=_epochs, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(save_best="psnr"))
custom_hooks = [
    dict(type="ProgressHook"),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("psnr", "psnr_before")),
]
