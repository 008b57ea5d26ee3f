"""A small MambaVision on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/mambavision/mambavision_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="mambavision_nano_test")
