"""HRVMamba-Small: 20.1M parameters, 81.3 % published top-1 at 256×256. The authors' recipe.

torchrun --nproc-per-node=8 tools/train.py configs/classification/hrvmamba/hrvmamba_small_imagenet.py --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="hrvmamba_small", drop_path_rate=0.2)

train_dataloader = dict(dataset=dict(transform=dict(input_size=(3, 256, 256))))
val_dataloader = dict(dataset=dict(transform=dict(input_size=(3, 256, 256), crop_pct=1.0)))
optim_wrapper = dict(dtype="bfloat16")
