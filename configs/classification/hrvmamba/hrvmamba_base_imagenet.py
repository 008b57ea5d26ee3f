"""HRVMamba-Base: 60.5M parameters, 84.2 % published top-1 at 224×224. The authors' recipe.

torchrun --nproc-per-node=8 tools/train.py configs/classification/hrvmamba/hrvmamba_base_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="hrvmamba_base", drop_path_rate=0.2)

val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
optim_wrapper = dict(dtype="bfloat16")
