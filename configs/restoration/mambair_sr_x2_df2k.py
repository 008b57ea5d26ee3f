"""MambaIR, classic super-resolution ×2 on DF2K (DIV2K and Flickr2K): 500 000 steps of batch 32 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_sr_x2_df2k.py

Published: Urban100 34.15 dB, 0.9446.
"""

_base_ = "../_base_/restoration.py"

_degradation = dict(type="downscale", scale=2)
model = dict(type="ImageRestorer", name="mambair_sr_x2")
train_dataloader = dict(batch_size=4, dataset=dict(images="DF2K", degradation=_degradation, patch=64))
val_dataloader = dict(dataset=dict(degradation=_degradation))
test_dataloader = dict(dataset=dict(degradation=_degradation))
