"""MambaIR, JPEG artefacts of grey images at quality 10: from the weights for 40, 800 000 steps of batch 16 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_jpeg_10.py

Published: Classic5 30.27 dB, 0.8256.
"""

_base_ = "../_base_/restoration.py"

_pairs = dict(degradation=dict(type="jpeg", quality=10), channels=1)
model = dict(
    type="ImageRestorer", name="mambair_jpeg", loss="charbonnier", pretrained="work_dirs/mambair_jpeg_40/best.pth"
)
train_dataloader = dict(batch_size=2, dataset=dict(images="DFWB", patch=126, **_pairs))
val_dataloader = dict(dataset=dict(images="LIVE1", **_pairs))
val_evaluator = dict(border=0)
test_dataloader = dict(dataset=dict(images="Classic5", **_pairs))
test_evaluator = dict(border=0)

train_cfg = dict(max_iters=800_000)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[400_000, 600_000, 700_000, 750_000], gamma=0.5)]
