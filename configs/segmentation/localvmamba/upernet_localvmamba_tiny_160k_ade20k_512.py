"""LocalVMamba-T, UPerNet 160k: 57M parameters, 970 GFLOPs; mIoU (second-hand) 47.9 (one scale).

Drop path is that of classification.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="localvmamba_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
