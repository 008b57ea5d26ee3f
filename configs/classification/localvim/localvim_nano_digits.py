"""A small LocalVim on the handwritten digits of scikit-learn: real images, no download, two CPU cores.

python tools/train.py configs/classification/localvim/localvim_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

# 8x8 patches of images of 32x32 pixels
model = dict(name="localvim_nano_test", model_kwargs=dict(img_size=32, patch_size=4))
