"""U-Mamba with Mamba layers in the encoder on abdominal MR (AMOS22), patches of 48×160×224: published Dice 85.01.

python tools/train.py configs/medical/umamba_enc3d.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR model.num_classes=N

`configs/_base_/umamba.py` says what differs from nnU-Net. The plan is the authors'; for another set,
`visionssm.heads.medical.plan` makes one.
"""

_base_ = "../_base_/umamba.py"

_patch = (48, 160, 224)
_plan = dict(
    patch=_patch,
    widths=(32, 64, 128, 256, 320, 320),
    strides=(1, (1, 2, 2), 2, 2, 2, (1, 2, 2)),
    kernels=((1, 3, 3), 3, 3, 3, 3, 3),
)

model = dict(
    type="MedicalSegmentor",
    name="umamba_enc3d",
    num_classes=14,
    in_chans=1,
    loss="ce_dice_foreground",
    inference=dict(patch=_patch, overlap=0.5, mirror=(), batch=2),
    changes=dict(plan=_plan),
)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        transforms=[
            dict(type="SpatialPadd", spatial_size=_patch),
            dict(type="RandCropByPosNegLabeld", spatial_size=_patch, pos=1, neg=2),
            dict(type="RandRotated", prob=0.2, range_x=0.52, padding_mode="zeros"),
            dict(type="RandZoomd", prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=("trilinear", "nearest")),
            dict(type="RandGaussianNoised", prob=0.1, std=0.1),
            dict(type="RandGaussianSmoothd", prob=0.2),
            dict(type="RandScaleIntensityd", prob=0.15, factors=0.25),
            dict(type="RandAdjustContrastd", prob=0.3, gamma=(0.7, 1.5)),
            *[dict(type="RandFlipd", prob=0.5, spatial_axis=axis) for axis in range(3)],
        ],
    ),
)
