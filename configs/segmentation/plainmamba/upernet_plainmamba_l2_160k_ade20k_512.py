"""PlainMamba-L2, UPerNet 160k: 55M parameters; published mIoU 46.8 (one scale).

The head reads the normalised maps of four layers, all of stride 16.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="plainmamba_l2", layers=(5, 11, 17, 23), norm_eps=1e-6, drop_path_rate=0.2),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
