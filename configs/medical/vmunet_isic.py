"""VM-UNet on ISIC 2018 (or 2017: the same but for `root`), from VMamba-S: published mIoU 81.35, Dice 89.71.

python tools/train.py configs/medical/vmunet_isic.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR

`configs/_base_/isic.py` says what differs from the authors' code.
"""

_base_ = "../_base_/isic.py"

model = dict(
    type="MedicalSegmentor", name="vmunet_isic", num_classes=1, in_chans=3, loss="bce_dice", pretrained_encoder=True
)

train_dataloader = dict(dataset=dict(root="data/isic18"))
val_dataloader = dict(dataset=dict(root="data/isic18"))
test_dataloader = dict(dataset=dict(root="data/isic18"))
