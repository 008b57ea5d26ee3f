"""VSSD-M: 13.5M parameters, 2.3 GFLOPs, 82.5 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vssd/vssd_micro_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vssd_micro", drop_path_rate=0.2)
