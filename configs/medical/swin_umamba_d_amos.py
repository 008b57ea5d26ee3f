"""Swin-UMamba with scans in its decoder on abdominal MR (AMOS22), from VMamba-T: published Dice 77.05, NSD 83.76.

python tools/train.py configs/medical/swin_umamba_d_amos.py --cfg-options train_dataloader.dataset.root=DIR \\
    val_dataloader.dataset.root=DIR test_dataloader.dataset.root=DIR

100 epochs of 250 steps, in which the rate goes down a cosine of 1,000, as for the published figure. What differs from
the authors' code: the encoder learns from the first step on (theirs is frozen for 2,500); and what
`configs/_base_/umamba.py` says.
"""

_base_ = "swin_umamba_amos.py"

model = dict(name="swin_umamba_d")
