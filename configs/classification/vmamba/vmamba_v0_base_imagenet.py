"""VMamba-B, first generation: 76M parameters, 18.0 GFLOPs, 83.7 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vmamba/vmamba_v0_base_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_v0_base", drop_path_rate=0.6)
