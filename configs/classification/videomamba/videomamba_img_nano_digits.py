"""A small VideoMamba of images on the handwritten digits that ship with scikit-learn: no download, two CPU cores.

python tools/train.py configs/classification/videomamba/videomamba_img_nano_digits.py
"""

_base_ = "../../vmamba_nano_digits.py"

# 8x8 patches of images of 32x32 pixels
model = dict(name="videomamba_img_nano_test", model_kwargs=dict(img_size=32, patch_size=4))
