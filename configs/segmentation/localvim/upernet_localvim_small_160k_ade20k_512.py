"""LocalVim-S, UPerNet 160k: 58M parameters; mIoU (second-hand) 46.4 (one scale).

The head reads the mixers' outputs of four layers, all of stride 16. Drop path is that of classification.
Routes are the fixed ones of the classifier; the authors' configuration for this size has LocalVim-T's.
"""

_base_ = "../../_base_/upernet_160k_ade20k_512.py"

model = dict(
    backbone=dict(name="localvim_small", layers=(4, 9, 14, 19), img_size=512, drop_path_rate=0.1),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
