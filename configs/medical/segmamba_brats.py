"""SegMamba on BraTS 2023, patches of 128³ of four modalities: published Dice 93.61 (WT), 92.65 (TC), 87.71 (ET).

python tools/train.py configs/medical/segmamba_brats.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR

dataset.json names the classes background, NCR, ED and ET, and the channels t2w, t2f, t1n and t1c. What differs from the
authors' code: whole volumes of a fifth of the cases choose the model, where theirs takes patches around the foreground;
full precision, unless --amp is given; no rotated low-resolution copies; and what `configs/_base_/umamba.py` says.
"""

_base_ = "../_base_/umamba.py"

_patch = (128, 128, 128)
_prepare = dict(intensity="nonzero", percentiles=None, spacing=(1.0, 1.0, 1.0), order=3)
_data = dict(dataset=dict(root="data/brats", prepare=_prepare))
_regions = dict(WT=["NCR", "ED", "ET"], TC=["NCR", "ET"])

model = dict(
    type="MedicalSegmentor",
    name="segmamba",
    num_classes=4,
    in_chans=4,
    loss="ce",
    inference=dict(patch=_patch, overlap=0.5, mirror=(0, 1, 2), batch=2),
)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        root="data/brats",
        prepare=_prepare,
        transforms=[
            dict(type="SpatialPadd", spatial_size=_patch),
            dict(type="RandCropByPosNegLabeld", spatial_size=_patch, pos=1, neg=2),
            dict(type="RandRotated", prob=0.2, range_x=0.52, range_y=0.52, range_z=0.52, padding_mode="zeros"),
            dict(type="RandZoomd", prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=("trilinear", "nearest")),
            dict(type="RandGaussianNoised", prob=0.1, std=0.1),
            dict(type="RandGaussianSmoothd", prob=0.2),
            dict(type="RandScaleIntensityd", prob=0.15, factors=0.25),
            dict(type="RandAdjustContrastd", prob=0.1, gamma=(0.7, 1.5), invert_image=True),
            dict(type="RandAdjustContrastd", prob=0.3, gamma=(0.7, 1.5)),
            *[dict(type="RandFlipd", prob=0.5, spatial_axis=axis) for axis in range(3)],
        ],
    ),
)
val_dataloader = dict(**_data)
val_evaluator = dict(regions=_regions)
test_dataloader = dict(**_data)
test_evaluator = dict(regions=_regions)
