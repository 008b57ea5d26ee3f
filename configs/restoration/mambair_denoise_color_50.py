"""MambaIR, Gaussian colour denoising at σ = 50: from the weights for σ = 15, 800 000 steps of batch 16 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_denoise_color_50.py

Published: Urban100 30.07 dB.
"""

_base_ = "../_base_/restoration.py"

_pairs = dict(degradation=dict(type="noise", sigma=50))
model = dict(
    type="ImageRestorer",
    name="mambair_denoise_color",
    loss="charbonnier",
    pretrained="work_dirs/mambair_denoise_color_15/best.pth",
)
train_dataloader = dict(batch_size=2, dataset=dict(images="DFWB", patch=128, **_pairs))
val_dataloader = dict(dataset=dict(images="CBSD68", **_pairs))
val_evaluator = dict(channel="rgb")
test_dataloader = dict(dataset=dict(images="Urban100", **_pairs))
test_evaluator = dict(channel="rgb")

train_cfg = dict(max_iters=800_000)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[400_000, 600_000, 700_000, 750_000], gamma=0.5)]
