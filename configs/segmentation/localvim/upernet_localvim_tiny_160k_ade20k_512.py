"""LocalVim-T, UPerNet 160k: 36M parameters; mIoU (second-hand) 43.4 (one scale).

The head reads the mixers' outputs of four layers, all of stride 16. Drop path is that of classification.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="localvim_tiny", layers=(4, 9, 14, 19), img_size=512, drop_path_rate=0.1),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)
