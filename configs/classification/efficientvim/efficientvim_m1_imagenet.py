r"""EfficientViM-M1, timm's model: 6.7M parameters, 72.9 % published top-1.

The authors' recipe was not at hand: this is the usual one of 300 epochs, which has never been run to the end.

torchrun --nproc-per-node=8 tools/train.py configs/classification/efficientvim/efficientvim_m1_imagenet.py \
    --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="efficientvim_m1", drop_path_rate=0.0)
