"""EfficientVMamba-B, UPerNet 160k: mIoU (second-hand) 46.5 (one scale).

The authors publish no code for this: drop path is that of their detectors, the rest the usual recipe.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="efficientvmamba_base", drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
