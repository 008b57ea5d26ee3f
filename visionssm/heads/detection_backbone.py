"""Backbones for torchvision's detectors. Needs nothing but torchvision.

from torchvision.models.detection import MaskRCNN
model = MaskRCNN(detection_backbone("vmamba_tiny_s1l8", pretrained=True), num_classes=91)

Whole detectors and segmentation models are in `visionssm.heads`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from visionssm.heads.feature_maps import FeatureMaps


class DetectionBackbone(nn.Module):
    """Feature maps and a feature pyramid on them (Lin et al. 2017); see `detection_backbone`."""

    def __init__(self, body: FeatureMaps, out_channels: int, extra_blocks: ExtraFPNBlock) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body.channels), out_channels, extra_blocks=extra_blocks)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(B, C, H, W) to maps of `out_channels`, fine to coarse, named "0", "1", … and as the extra levels are."""
        return self.fpn(OrderedDict((str(level), maps) for level, maps in enumerate(self.body(x))))


def detection_backbone(
    name: str,
    out_channels: int = 256,
    *,
    pretrained: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    extra_blocks: ExtraFPNBlock | None = None,
    frozen_stages: int = -1,
    in_chans: int = 3,
    **model_kwargs: Any,
) -> DetectionBackbone:
    """A backbone for `torchvision.models.detection`: FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS.

    The maps are named "0", "1", "2", "3" and "pool", five levels as torchvision's own ResNet pyramid has them, so the
    detectors' default anchors and RoI pooling fit. RetinaNet and FCOS are usually built on the last three stages:

        detection_backbone(name, out_indices=(1, 2, 3), extra_blocks=LastLevelP6P7(256, 256))

    Args:
        name: any registered model, of this package or of timm; plain ones (Vim) get a simple feature pyramid.
        out_channels: of every level of the pyramid.
        pretrained: load published ImageNet weights.
        out_indices: stages that the pyramid is built on.
        extra_blocks: levels on top of it; None for one more by max pooling, as torchvision's default.
        frozen_stages, in_chans, model_kwargs: see `visionssm.heads.feature_maps.FeatureMaps`.
    Raises:
        ValueError: the name is unknown, or an argument does not fit the model.

    Examples:
        >>> import torch, visionssm
        >>> from torchvision.models.detection import MaskRCNN
        >>> model = MaskRCNN(visionssm.detection_backbone("vmamba_nano_test", 32), num_classes=3).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'masks', 'scores']
    """
    if out_channels < 1:
        raise ValueError(f"out_channels must be at least 1, got {out_channels}")
    body = FeatureMaps(
        name,
        pretrained=pretrained,
        out_indices=out_indices,
        frozen_stages=frozen_stages,
        in_chans=in_chans,
        **model_kwargs,
    )
    return DetectionBackbone(body, out_channels, LastLevelMaxPool() if extra_blocks is None else extra_blocks)
