"""MSVMamba-M, UPerNet 160k: 42M parameters, 875 GFLOPs; published mIoU 45.1 (one scale)."""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="msvmamba_micro", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
