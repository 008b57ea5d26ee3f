r"""EfficientViM-M2, timm's model: 13.9M parameters, 75.4 % published top-1.

The authors' recipe was not at hand: this is the usual one of 300 epochs, which has never been run to the end.

torchrun --nproc-per-node=8 tools/train.py configs/classification/efficientvim/efficientvim_m2_imagenet.py \
    --launcher pytorch
"""

_base_ = "../../_base_/imagenet.py"

model = dict(name="efficientvim_m2", drop_path_rate=0.0)
