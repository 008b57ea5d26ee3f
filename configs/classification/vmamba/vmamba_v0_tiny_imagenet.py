"""VMamba-T, first generation: 22.9M parameters, 5.6 GFLOPs, 82.2 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/classification/vmamba/vmamba_v0_tiny_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(
    name="vmamba_v0_tiny",
    drop_path_rate=0.1,  # of the published run; the paper's table says 0.2
)
