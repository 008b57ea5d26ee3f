r"""VMamba-B s2l15: 88.6M parameters, 15.4 GFLOPs, 83.9 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/vmamba/vmamba_base_s2l15_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_base_s2l15", drop_path_rate=0.6)
