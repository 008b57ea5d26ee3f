"""Swin-UMamba on slices of abdominal MR (AMOS22), from VMamba-T: published Dice 77.60, NSD 84.21.

python tools/train.py configs/medical/swin_umamba_amos.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR

100 epochs of 250 steps, in which the rate goes down a cosine of 1,000, as for the published figure. What differs from
the authors' code: the encoder learns from the first step on (theirs is frozen for 2,500); and what
`configs/_base_/umamba.py` says.
"""

_base_ = "../_base_/umamba.py"

_patch = (320, 320)
_size = (1, 320, 320)
_steps = 25_000

model = dict(
    type="MedicalSegmentor",
    name="swin_umamba",
    num_classes=14,
    in_chans=1,
    loss="ce_batch_dice_foreground",
    inference=dict(patch=_patch, overlap=0.5, mirror=(), batch=2),
    pretrained_encoder=True,
)
train_dataloader = dict(
    batch_size=12,
    dataset=dict(
        transforms=[
            dict(type="SpatialPadd", spatial_size=_size),
            dict(type="RandCropByPosNegLabeld", spatial_size=_size, pos=1, neg=2),
            dict(type="SqueezeDimd", dim=1),
            dict(type="RandRotated", prob=0.2, range_x=0.52, padding_mode="zeros"),
            dict(type="RandZoomd", prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=("bilinear", "nearest")),
            dict(type="RandGaussianNoised", prob=0.1, std=0.1),
            dict(type="RandGaussianSmoothd", prob=0.2),
            dict(type="RandScaleIntensityd", prob=0.15, factors=0.25),
            dict(type="RandAdjustContrastd", prob=0.3, gamma=(0.7, 1.5)),
            *[dict(type="RandFlipd", prob=0.5, spatial_axis=axis) for axis in range(2)],
        ],
    ),
)
train_cfg = dict(max_iters=_steps)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.05),
    clip_grad=dict(max_norm=12.0),
)
param_scheduler = [dict(type="CosineAnnealingLR", T_max=250_000, eta_min=1e-6, by_epoch=False)]
