"""MambaIR, JPEG artefacts of grey images at quality 40: 1.6 million steps of batch 16 on 8 GPUs.

torchrun --nproc-per-node=8 tools/train.py configs/restoration/mambair_jpeg_40.py

Published: Classic5 34.53 dB, 0.9084.
"""

_base_ = "../_base_/restoration.py"

_pairs = dict(degradation=dict(type="jpeg", quality=40), channels=1)
model = dict(type="ImageRestorer", name="mambair_jpeg", loss="charbonnier")
train_dataloader = dict(batch_size=2, dataset=dict(images="DFWB", patch=126, **_pairs))
val_dataloader = dict(dataset=dict(images="LIVE1", **_pairs))
val_evaluator = dict(border=0)
test_dataloader = dict(dataset=dict(images="Classic5", **_pairs))
test_evaluator = dict(border=0)

train_cfg = dict(max_iters=1_600_000)
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=False, milestones=[800_000, 1_200_000, 1_400_000, 1_500_000], gamma=0.5)
]
