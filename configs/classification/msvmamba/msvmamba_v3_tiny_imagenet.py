r"""MSVMambav3-T: 32.3M parameters, 5.0 GFLOPs, 83.0 % published top-1.

torchrun --nproc-per-node=8 tools/train.py \
    configs/classification/msvmamba/msvmamba_v3_tiny_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="msvmamba_v3_tiny", drop_path_rate=0.2)
