"""MSVMamba-M: 11.9M parameters, 1.5 GFLOPs, 79.8 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/msvmamba/msvmamba_micro_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="msvmamba_micro", drop_path_rate=0.2)
