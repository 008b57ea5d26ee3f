r"""A search for routes on the digits of scikit-learn: the supernet of a small LocalVim, eight routes in every layer.

python tools/train.py configs/classification/localvim/localvim_nano_supernet_digits.py
python tools/search_routes.py work_dirs/localvim_nano_supernet_digits/best.pth \
    --base localvim_nano_digits --config searched.py
"""

_base_ = "../../vmamba_nano_digits.py"

# 8x8 patches of images of 32x32 pixels, through windows of two and four
_routes = ("h", "h_flip", "v", "v_flip", "w2", "w2_flip", "w4", "w4_flip")
model = dict(name="localvim_nano_test", model_kwargs=dict(img_size=32, patch_size=4, directions=_routes, weighted=True))

# A third of the epochs of what is trained with the routes, as the authors do
_epochs = 7
train_cfg = dict(max_epochs=_epochs, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, begin=2, end=_epochs, convert_to_iter_based=True),
]
