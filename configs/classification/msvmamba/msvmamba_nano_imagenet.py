"""MSVMamba-N: 6.9M parameters, 0.9 GFLOPs, 77.3 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/msvmamba/msvmamba_nano_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="msvmamba_nano", drop_path_rate=0.2)
