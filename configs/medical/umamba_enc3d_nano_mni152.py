"""A small U-Mamba on 3-D patches of a real head, the MNI152 template that nilearn ships: no download, two CPU cores.

python tools/train.py configs/medical/umamba_enc3d_nano_mni152.py
python tools/test.py configs/medical/umamba_enc3d_nano_mni152.py work_dirs/umamba_enc3d_nano_mni152/best.pth

Slabs of slices are trained on in patches of 8×48×48 voxels; other slabs, by sliding windows, choose best.pth and test
it. See `vmunet_nano_mni152.py` for what such figures say.
"""

_base_ = "./vmunet_nano_mni152.py"

_patch = (8, 48, 48)

model = dict(
    name="umamba_enc3d_nano",
    loss="ce_dice_foreground",
    inference=dict(patch=_patch, batch=4),
    changes=dict(plan=dict(patch=_patch, widths=(8, 16, 24, 32), strides=(1, (1, 2, 2), 2, 2), blocks=(1,))),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        dims=3,
        repeat=24,
        transforms=[
            dict(type="RandCropByPosNegLabeld", spatial_size=_patch, pos=3, neg=1),
            dict(type="RandFlipd", prob=0.5, spatial_axis=2),
            dict(type="RandGaussianNoised", prob=0.3, std=0.05),
        ],
    ),
)
