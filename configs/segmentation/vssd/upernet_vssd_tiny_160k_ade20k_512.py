"""VSSD-T, UPerNet 160k: 53M parameters, 941 GFLOPs; published mIoU 47.9 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="vssd_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
