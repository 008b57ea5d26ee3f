"""MambaIR, Gaussian colour denoising at σ = 15: 1.6 million steps of batch 16 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_denoise_color_15.py

Published: Urban100 35.17 dB.
"""

_base_ = "../_base_/restoration.py"

_pairs = dict(degradation=dict(type="noise", sigma=15))
model = dict(type="ImageRestorer", name="mambair_denoise_color", loss="charbonnier")
train_dataloader = dict(batch_size=2, dataset=dict(images="DFWB", patch=128, **_pairs))
val_dataloader = dict(dataset=dict(images="CBSD68", **_pairs))
val_evaluator = dict(channel="rgb")
test_dataloader = dict(dataset=dict(images="Urban100", **_pairs))
test_evaluator = dict(channel="rgb")

train_cfg = dict(max_iters=1_600_000)
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=False, milestones=[800_000, 1_200_000, 1_400_000, 1_500_000], gamma=0.5)
]
