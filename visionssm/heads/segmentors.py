"""Segmentation models in torchvision's form on backbones of this package or of timm.

model = segmentation_model("vmamba_tiny_s1l8", num_classes=21)
scores = model(images)["out"]
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork

from visionssm.heads.feature_maps import FeatureMaps


class FusedMaps(nn.Module):
    """All stages in one map: a feature pyramid whose levels are summed at the resolution of the finest one.

    Backbones of stride 32 thus give a segmentation head the fine map that torchvision's ResNets get by dilation
    (the merging of Panoptic FPN, Kirillov et al. 2019, with bilinear steps alone).
    """

    def __init__(self, body: FeatureMaps, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body.channels), channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(B, C, H, W) to {"out": (B, channels, H', W'), "aux": the last stage but one}."""
        maps = self.body(x)
        first, *others = self.fpn(OrderedDict(enumerate(maps))).values()
        size = first.shape[-2:]
        for level in others:
            first = first + F.interpolate(level, size=size, mode="bilinear", align_corners=False)
        return OrderedDict(out=first, aux=maps[max(0, len(maps) - 2)])


def _deeplab_head(channels: int, num_classes: int, atrous_rates: Sequence[int]) -> nn.Module:
    """torchvision's DeepLabHead with its 256 channels free to choose."""
    return nn.Sequential(
        ASPP(channels, atrous_rates, channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 1),
    )


def _fcn_head(channels: int, num_classes: int, atrous_rates: Sequence[int]) -> nn.Module:
    return FCNHead(channels, num_classes)


Head = tuple[Callable[..., nn.Module], Callable[[int, int, Sequence[int]], nn.Module]]

HEADS: Mapping[str, Head] = {"deeplab": (DeepLabV3, _deeplab_head), "fcn": (FCN, _fcn_head)}
"""torchvision's model class and the head of each kind."""


def segmentation_model(
    name: str,
    num_classes: int,
    *,
    head: str = "deeplab",
    channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    auxiliary: bool = False,
    pretrained: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    frozen_stages: int = -1,
    in_chans: int = 3,
    **model_kwargs: Any,
) -> DeepLabV3 | FCN:
    """A segmentation model with torchvision's contract: (B, C, H, W) to {"out": (B, num_classes, H, W)}.

    In training, "deeplab" needs at least two images in a batch, as torchvision's does (batch norm of pooled features).

    Args:
        name: any registered model, of this package or of timm.
        num_classes: with the background, where that is one.
        head: "deeplab" (atrous pyramid, Chen et al. 2017) or "fcn" (Long et al. 2015), on the fused stages.
        channels: of the fused map and within the head.
        atrous_rates: of the atrous pyramid; smaller ones for small images.
        auxiliary: also give "aux", scores of an FCN head on the last stage but one, for an auxiliary loss.
        pretrained: load published ImageNet weights.
        out_indices: stages that are fused; the first one's stride is that of the head.
        frozen_stages, in_chans, model_kwargs: see `visionssm.heads.feature_maps.FeatureMaps`.
    Raises:
        ValueError: the name or the head is unknown, or an argument does not fit the model.

    Examples:
        >>> import torch, visionssm
        >>> model = visionssm.segmentation_model("vmamba_nano_test", num_classes=21, channels=32).eval()
        >>> model(torch.rand(1, 3, 64, 96))["out"].shape
        torch.Size([1, 21, 64, 96])
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is unknown; choose one of {', '.join(sorted(HEADS))}")
    for argument, value in (("num_classes", num_classes), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    body = FeatureMaps(
        name,
        pretrained=pretrained,
        out_indices=out_indices,
        frozen_stages=frozen_stages,
        in_chans=in_chans,
        **model_kwargs,
    )
    model_class, build_head = HEADS[head]
    deep = body.channels[max(0, len(body.channels) - 2)]
    aux = FCNHead(deep, num_classes) if auxiliary else None
    return model_class(FusedMaps(body, channels), build_head(channels, num_classes, atrous_rates), aux)


class Normalised(nn.Module):
    """A segmentation model of images in [0, 1]: normalises them, and gives (B, num_classes, H, W) scores.

    Args:
        model: in torchvision's form.
        mean, std: of the images that it was trained on, a number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @property
    def body(self) -> FeatureMaps:
        """The backbone, from normalised images to maps."""
        return self.model.backbone.body  # type: ignore[union-attr,return-value]

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [0, 1] as the backbone takes them."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [0, 1] to (B, num_classes, H, W) scores."""
        return self.model(self.normalise(images))["out"]
