r"""VMamba-B s1l20: 87M parameters, 15.2 GFLOPs, 83.8 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/vmamba/vmamba_base_s1l20_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_base_s1l20", drop_path_rate=0.5)
