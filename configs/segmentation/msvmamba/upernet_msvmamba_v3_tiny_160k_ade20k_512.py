"""MSVMambav3-T, UPerNet 160k: 63M parameters, 953 GFLOPs; published mIoU 47.9 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="msvmamba_v3_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
