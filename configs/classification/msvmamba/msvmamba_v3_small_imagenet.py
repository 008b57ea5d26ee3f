r"""MSVMambav3-S: 50.2M parameters, 8.8 GFLOPs, 84.1 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/msvmamba/msvmamba_v3_small_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="msvmamba_v3_small", drop_path_rate=0.4)
