"""VMamba-T (the paper's reference tiny model, s1l8): 30.2M parameters, 4.9 GFLOPs, 82.6 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/vmamba_t_imagenet.py --launcher pytorch
"""

_base_ = "_base_/imagenet.py"

model = dict(name="vmamba_tiny_s1l8", drop_path_rate=0.2)
