"""VMamba-S, first generation: 44M parameters, 11.2 GFLOPs, 83.5 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vmamba/vmamba_v0_small_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_v0_small", drop_path_rate=0.3)
