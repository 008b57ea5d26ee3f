"""Spatial-Mamba-T, UPerNet 160k: 57M parameters, 936 GFLOPs; published mIoU 48.6 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="spatialmamba_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
