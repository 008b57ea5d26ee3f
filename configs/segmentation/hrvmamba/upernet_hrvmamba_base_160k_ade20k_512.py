"""HRVMamba-B, UPerNet 160k: 99M parameters, 1184 GFLOPs; published mIoU 51.4 (one scale).

The heads read the pyramid of the backbone's neck, its levels 4 to 7.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="hrvmamba_base", out_indices=(4, 5, 6, 7), drop_path_rate=0.15),
    decode_head=dict(in_channels=[128, 256, 512, 2048]),
    auxiliary_head=dict(in_channels=512),
)
