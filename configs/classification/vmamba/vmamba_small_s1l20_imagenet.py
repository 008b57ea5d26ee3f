r"""VMamba-S s1l20: 49M parameters, 8.6 GFLOPs, 83.3 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/vmamba/vmamba_small_s1l20_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vmamba_small_s1l20", drop_path_rate=0.3)
