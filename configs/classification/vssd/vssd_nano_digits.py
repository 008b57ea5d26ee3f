"""A small VSSD on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/vssd/vssd_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="vssd_nano_test")
