"""A small LocalVMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/localvmamba/localvmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="localvmamba_nano_test")
