"""PlainMamba-L3, UPerNet 160k: 81M parameters; published mIoU 49.1 (one scale).

The head reads the normalised maps of four layers, all of stride 16.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="plainmamba_l3", layers=(8, 17, 26, 35), norm_eps=1e-6, drop_path_rate=0.3),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448),
)
