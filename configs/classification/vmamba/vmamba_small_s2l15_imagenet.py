r"""VMamba-S s2l15: 50.1M parameters, 8.7 GFLOPs, 83.6 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/vmamba/vmamba_small_s2l15_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_small_s2l15", drop_path_rate=0.3)
