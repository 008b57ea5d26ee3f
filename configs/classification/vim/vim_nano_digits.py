"""A small Vim on the handwritten digits that ship with scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/vim/vim_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

# 7x7 overlapping patches of images of 32x32 pixels
model = dict(name="vim_nano_test", model_kwargs=dict(img_size=32, patch_size=8, stride=4))
