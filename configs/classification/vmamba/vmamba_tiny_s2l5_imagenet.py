"""VMamba-T s2l5: 30.7M parameters, 4.9 GFLOPs, 82.5 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vmamba/vmamba_tiny_s2l5_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_tiny_s2l5", drop_path_rate=0.2)
