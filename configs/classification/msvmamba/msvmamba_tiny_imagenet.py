"""MSVMamba-T, first generation: 33.0M parameters, 4.6 GFLOPs, 82.8 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/msvmamba/msvmamba_tiny_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="msvmamba_tiny", drop_path_rate=0.2)
