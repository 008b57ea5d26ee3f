"""HRVMamba-Nano: 12.3M parameters, 74.8 % published top-1 at 256×256. The authors' recipe.

torchrun --nproc-per-node=8 tools/train.py configs/classification/hrvmamba/hrvmamba_nano_imagenet.py --launcher pytorch

The learning rate is scaled to the batch of 2048. The block is the one with channel attention; the plain one, which the
authors' newer files may have, is `model.name=hrvmamba_nano_plain`.
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="hrvmamba_nano", drop_path_rate=0.1)

train_dataloader = dict(batch_size=256, dataset=dict(transform=dict(input_size=(3, 256, 256))))
val_dataloader = dict(dataset=dict(transform=dict(input_size=(3, 256, 256), crop_pct=1.0)))
optim_wrapper = dict(dtype="bfloat16")
