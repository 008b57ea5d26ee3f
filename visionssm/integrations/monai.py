"""Networks for medical segmentation in MONAI: with its names of arguments, in bundle configs and with its inferers.

Importing this module imports nothing of MONAI.
"""

from __future__ import annotations

from typing import Any

from visionssm.heads.medical import Segmenter, create_segmenter

__all__ = ["segmenter"]


def segmenter(
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    spatial_dims: int | None = None,
    deep_supervision: bool = False,
    **changes: Any,
) -> Segmenter:
    """A network of `visionssm.list_segmenters()`, for MONAI's inferers, trainers and bundle configs.

    In a bundle config it is `{"_target_": "visionssm.integrations.monai.segmenter", "name": …, "in_channels": …,
    "out_channels": …}`.

    Args:
        name: one of `visionssm.list_segmenters()`.
        in_channels: of an image.
        out_channels: classes, the background among them.
        spatial_dims: 2 or 3, checked where it is given.
        deep_supervision: give a list of logits while training, for MONAI's `DeepSupervisionLoss`.
        changes: further arguments of `visionssm.create_segmenter`.

    Raises:
        ValueError: there is no such network, or it is not for so many dimensions, or has one resolution of logits only.

    Examples:
        >>> import torch
        >>> network = segmenter("umamba_enc2d_nano", in_channels=1, out_channels=3)
        >>> network(torch.rand(1, 1, 48, 40)).shape
        torch.Size([1, 3, 48, 40])
    """
    network: Any = create_segmenter(name, num_classes=out_channels, in_chans=in_channels, **changes)
    if spatial_dims not in (None, network.spatial_dims):
        raise ValueError(f"spatial_dims={spatial_dims}, but {name} is for {network.spatial_dims}; leave it out")
    if hasattr(network, "deep_supervision"):
        network.deep_supervision = deep_supervision
    elif deep_supervision:
        raise ValueError(f"deep_supervision=True, but {name} has logits of one resolution only")
    return network
