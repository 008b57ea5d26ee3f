"""MambaIR, light super-resolution ×4 on DIV2K: from ×2's weights, 500 000 steps of batch 32 on 2 GPUs.

torchrun --nproc-per-node=2 tools/train.py configs/restoration/mambair_sr_light_x4_div2k.py

Published: Urban100 26.75 dB, 0.8051.
"""

_base_ = "../_base_/restoration.py"

_degradation = dict(type="downscale", scale=4)
model = dict(type="ImageRestorer", name="mambair_sr_light_x4", body="work_dirs/mambair_sr_light_x2_div2k/best.pth")
train_dataloader = dict(batch_size=16, dataset=dict(images="DIV2K", degradation=_degradation, patch=48))
val_dataloader = dict(dataset=dict(degradation=_degradation))
test_dataloader = dict(dataset=dict(degradation=_degradation))
