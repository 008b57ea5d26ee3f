"""EfficientViM-M4, UPerNet 160k on three maps of strides 16, 32 and 64; the auxiliary head reads the one of stride 64.

The authors' recipe was not at hand: this is the usual one. It has never been run to the end, and nothing is published
that it could be compared with.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="efficientvim_m4", out_indices=(0, 1, 2)),
    decode_head=dict(in_channels=[224, 320, 512], in_index=[0, 1, 2]),
    auxiliary_head=dict(in_channels=512, in_index=2),
)
