"""timm's smallest MambaOut, gated convolutions without a scan, on the handwritten digits of scikit-learn.

python tools/train.py configs/classification/mambaout/mambaout_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

model = dict(name="test_mambaout")
