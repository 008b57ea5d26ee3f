"""MHS-VM with four heads and threshold 0.5 on ISIC 2018, from scratch: published mIoU 80.85, Dice 89.41.

python tools/train.py configs/medical/mhsvm_isic18.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR

`configs/_base_/isic.py` says what differs from the authors' code.
"""

_base_ = "../_base_/isic.py"

model = dict(type="MedicalSegmentor", name="mhsvm_4h", num_classes=1, in_chans=3, loss="bce_dice")

train_dataloader = dict(dataset=dict(root="data/isic18"))
val_dataloader = dict(dataset=dict(root="data/isic18"))
test_dataloader = dict(dataset=dict(root="data/isic18"))
