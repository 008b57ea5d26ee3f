"""Spatial-Mamba-T: 26.7M parameters, 4.5 GFLOPs, 83.5 % published top-1.

torchrun --nproc-per-node=8 tools/train.py configs/spatialmamba_tiny_imagenet.py --launcher pytorch

The published run has one term more, not in this config: from epoch 75 on, 1.0 times `visionssm.losses.mesa`.
"""

_base_ = "_base_/imagenet.py"

model = dict(name="spatialmamba_tiny", drop_path_rate=0.2)
