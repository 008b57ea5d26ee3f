"""A small Spatial-Mamba on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/spatialmamba/spatialmamba_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="spatialmamba_nano_test")
