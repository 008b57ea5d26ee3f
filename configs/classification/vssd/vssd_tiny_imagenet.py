"""VSSD-T: 24.3M parameters, 4.5 GFLOPs, 83.6 % published top-1 without MESA.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vssd/vssd_tiny_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="vssd_tiny", drop_path_rate=0.2)
