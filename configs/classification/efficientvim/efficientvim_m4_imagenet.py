r"""EfficientViM-M4, timm's model: 19.6M parameters, 79.4 % published top-1.

The authors' recipe was not at hand: this is the usual one of 300 epochs, which has never been run to the end.

torchrun --nproc-per-node=8 tools/train.py configs/classification/efficientvim/efficientvim_m4_imagenet.py \
    --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="efficientvim_m4", drop_path_rate=0.0)

_size = (3, 256, 256)
train_dataloader = dict(dataset=dict(transform=dict(input_size=_size)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=_size)))
