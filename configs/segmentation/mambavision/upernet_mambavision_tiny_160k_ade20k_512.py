"""MambaVision-T, UPerNet 160k: mIoU 46.0 (one scale).

In mixed precision.
The authors' drop path is the 0.2 of classification, since their wrapper does not pass on what their config says.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="mambavision_tiny", window_size=(64, 32), drop_path_rate=0.2),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)
optim_wrapper = dict(type="MixedPrecision", optimizer=dict(lr=5e-5))
