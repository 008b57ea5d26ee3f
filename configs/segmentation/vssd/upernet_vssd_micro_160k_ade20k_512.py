"""VSSD-M, UPerNet 160k: 42M parameters, 893 GFLOPs; published mIoU 45.6 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="vssd_micro", drop_path_rate=0.2),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
