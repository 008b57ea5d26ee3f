"""MSVMamba-T (first generation), UPerNet 160k: 65M parameters, 942 GFLOPs; published mIoU 47.8 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="msvmamba_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
