"""VMamba-S, UPerNet 160k: published mIoU 50.6 (one scale).

Drop path is that of classification.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="vmamba_small_s2l15", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
