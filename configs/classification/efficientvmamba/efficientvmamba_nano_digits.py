"""A small EfficientVMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/efficientvmamba/efficientvmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="efficientvmamba_nano_test")
