"""MambaIR, light super-resolution ×3 on DIV2K: from ×2's weights, 500 000 steps of batch 32 on 2 GPUs.

torchrun --nproc-per-node=2 tools/train.py configs/restoration/mambair_sr_light_x3_div2k.py

Published: Urban100 29.00 dB, 0.8689.
"""

_base_ = "../_base_/restoration.py"

_degradation = dict(type="downscale", scale=3)
model = dict(type="ImageRestorer", name="mambair_sr_light_x3", body="work_dirs/mambair_sr_light_x2_div2k/best.pth")
train_dataloader = dict(batch_size=16, dataset=dict(images="DIV2K", degradation=_degradation, patch=64))
val_dataloader = dict(dataset=dict(degradation=_degradation))
test_dataloader = dict(dataset=dict(degradation=_degradation))
