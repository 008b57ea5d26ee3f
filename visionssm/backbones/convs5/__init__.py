"""ConvS5: convolutional state-space layers for video (Smith et al. 2023, arXiv 2310.19694)."""

from visionssm.backbones.convs5.keys import checkpoint_filter_fn, flatten_parameters
from visionssm.backbones.convs5.layer import ConvS5Layer
from visionssm.backbones.convs5.model import VARIANTS, ConvS5, ConvS5Config, create_convs5, next_frame_losses
from visionssm.backbones.convs5.operator import ConvSSM, Kernels, hippo_poles

__all__ = [
    "VARIANTS",
    "ConvS5",
    "ConvS5Config",
    "ConvS5Layer",
    "ConvSSM",
    "Kernels",
    "checkpoint_filter_fn",
    "create_convs5",
    "flatten_parameters",
    "hippo_poles",
    "next_frame_losses",
]
