"""A small GroupMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/groupmamba/groupmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="groupmamba_nano_test")
