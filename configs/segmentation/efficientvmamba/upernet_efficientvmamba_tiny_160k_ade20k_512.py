"""EfficientVMamba-T, UPerNet 160k: mIoU (second-hand) 38.9 (one scale).

The authors publish no code for this: drop path is that of their detectors, the rest the usual recipe.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="efficientvmamba_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
