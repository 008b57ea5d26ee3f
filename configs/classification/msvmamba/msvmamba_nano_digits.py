"""A first-generation MSVMamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/msvmamba/msvmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="msvmamba_nano_test")
