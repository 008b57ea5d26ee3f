"""timm's smallest EfficientViM, state-space duality without a scan, on the handwritten digits of scikit-learn.

python tools/train.py configs/classification/efficientvim/efficientvim_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="efficientvim_m1")
