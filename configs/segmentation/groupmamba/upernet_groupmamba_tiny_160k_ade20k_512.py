"""GroupMamba-T, UPerNet 160k: mIoU (second-hand) 48.6 (one scale).

The authors publish no code for this: drop path is that of classification, the rest the usual recipe.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="groupmamba_tiny", drop_path_rate=0.05),
    decode_head=dict(in_channels=[64, 128, 348, 448]),
    auxiliary_head=dict(in_channels=348),
)
