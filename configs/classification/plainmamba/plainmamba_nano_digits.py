"""A small PlainMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/plainmamba/plainmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

# 8x8 patches of digits that are drawn at 128x128 pixels
model = dict(name="plainmamba_nano_test", model_kwargs=dict(img_size=128))
train_dataloader = dict(dataset=dict(size=128))
val_dataloader = dict(dataset=dict(size=128))
