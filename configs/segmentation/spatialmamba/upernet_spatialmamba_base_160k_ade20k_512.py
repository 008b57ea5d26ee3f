"""Spatial-Mamba-B, UPerNet 160k: 127M parameters, 1176 GFLOPs; published mIoU 51.8 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="spatialmamba_base", drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
