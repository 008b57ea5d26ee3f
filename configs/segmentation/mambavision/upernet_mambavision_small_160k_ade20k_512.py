"""MambaVision-S, UPerNet 160k: mIoU 48.2 (one scale).

In mixed precision.
The authors' drop path is the 0.2 of classification, since their wrapper does not pass on what their config says.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="mambavision_small", window_size=(160, 56), drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(type="MixedPrecision")
