"""MambaIR, classic super-resolution ×3 on DF2K: from ×2's weights, 250 000 steps of batch 64 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_sr_x3_df2k.py

Published: Urban100 29.93 dB, 0.8841.
"""

_base_ = "../_base_/restoration.py"

_degradation = dict(type="downscale", scale=3)
model = dict(type="ImageRestorer", name="mambair_sr_x3", body="work_dirs/mambair_sr_x2_df2k/best.pth")
train_dataloader = dict(batch_size=8, dataset=dict(images="DF2K", degradation=_degradation, patch=64))
val_dataloader = dict(dataset=dict(degradation=_degradation))
test_dataloader = dict(dataset=dict(degradation=_degradation))

train_cfg = dict(max_iters=250_000)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[125_000, 200_000, 225_000, 237_500], gamma=0.5)]
