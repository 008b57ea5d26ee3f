"""A small HRVMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/hrvmamba/hrvmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="hrvmamba_nano_test")
