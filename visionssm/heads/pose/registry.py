"""The pose estimators by name, with what is published of them."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

import visionssm.backbones  # noqa: F401  registers the models
from visionssm.checkpoints import OfficialCfg, fetch_pretrained, load_official
from visionssm.heads.pose.heatmap import PoseBlock, PoseNetwork, init_pose_


@dataclass(frozen=True)
class PoseVariant:
    """A pose estimator, and what is published of it.

    Attributes:
        backbone: name of the classifier whose highest resolution is read.
        crop_size: height and width of the crops.
        sigma: of the heat maps that it learns from, in their pixels.
        changes: arguments of the backbone in place of its own.
        parameters: in millions, as the authors print them; None, like the next two, if nothing is published.
        gflops: multiply-adds of one crop in thousand millions, as the authors print them.
        ap: COCO val2017, key-point AP in per cent with a detector's boxes.
        file: number of the published weights at Google Drive, which only a person can download.
    """

    backbone: str
    crop_size: tuple[int, int]
    sigma: float = 2.0
    changes: Mapping[str, Any] | None = None
    parameters: int | None = None
    gflops: float | None = None
    ap: float | None = None
    file: str | None = None

    @property
    def manual_url(self) -> str | None:
        """Page of the published weights."""
        return f"https://drive.google.com/file/d/{self.file}/view" if self.file else None


def _coco(backbone: str, size: tuple[int, int], **published: Any) -> PoseVariant:
    return PoseVariant(f"hrvmamba_{backbone}", size, sigma=2.0 if size == _SMALL else 3.0, **published)


_SMALL, _LARGE = (256, 192), (384, 288)
VARIANTS: dict[str, PoseVariant] = {
    "hrvmamba_tiny_pose_256x192": _coco(
        "tiny_plain", _SMALL, parameters=2, gflops=1.1, ap=69.5, file="1cj6VPnSiyCDQHuDEZIIytyEQO-Xr-pPO"
    ),
    "hrvmamba_small_pose_256x192": _coco(
        "small", _SMALL, parameters=8, gflops=3.3, ap=74.6, file="1L3CO3D4L1Q1galRaSC82taDDqFqmukKt"
    ),
    "hrvmamba_base_pose_256x192": _coco(
        "base", _SMALL, parameters=47, gflops=14.2, ap=76.5, file="14JE7v6jdxtJaEMJCatqbmuhLkfBYVBOX"
    ),
    "hrvmamba_tiny_pose_384x288": _coco("tiny_plain", _LARGE),
    "hrvmamba_small_pose_384x288": _coco(
        "small", _LARGE, parameters=8, gflops=7.4, ap=76.4, file="1aqkUoQog4hl1dSbkUkwQvlwgistpxtzQ"
    ),
    "hrvmamba_base_pose_384x288": _coco(
        "base", _LARGE, parameters=47, gflops=32.0, ap=77.7, file="161d_LhWBBvBOSXxPBGRBNCjYr8PP0w9c"
    ),
    "hrvmamba_nano_pose": PoseVariant(
        "hrvmamba_nano_test", (128, 96), changes={"dims": (16, 24, 32, 48), "modules": (1, 1, 1), "offset_conv": False}
    ),
}
"""The pose estimators by name."""


def list_poses(pattern: str = "*") -> list[str]:
    """Names of the pose estimators that match a shell pattern, in alphabetical order.

    Examples:
        >>> list_poses("*_base_*")
        ['hrvmamba_base_pose_256x192', 'hrvmamba_base_pose_384x288']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def create_pose(
    name: str,
    num_keypoints: int = 17,
    *,
    pretrained: bool | str | Path = False,
    pretrained_backbone: bool | str | Path | Mapping[str, Any] = False,
    drop_rate: float = 0.0,
    **changes: Any,
) -> PoseNetwork:
    """A top-down pose estimator: (B, 3, H, W) crops to (B, K, H/4, W/4) heat maps.

    Args:
        name: one of `list_poses()`.
        num_keypoints: K.
        pretrained: whether to load the published weights; or a file to load, of the authors or of ours.
        pretrained_backbone: whether to start from the published ImageNet weights; or a file with them, or what was read
            from one. Parts that only a classifier needs are left out.
        drop_rate: dropout after the scans and in the MLPs.
        changes: arguments of the backbone in place of the variant's, for example `drop_path_rate`.

    Raises:
        ValueError: there is no such network, or an argument is out of range; (CheckpointError) the file does not fit,
            or no weights are known.

    Examples:
        >>> import torch
        >>> model = create_pose("hrvmamba_nano_pose", num_keypoints=14).eval()
        >>> model(torch.zeros(1, 3, *model.crop_size)).shape
        torch.Size([1, 14, 32, 24])
    """
    if name not in VARIANTS:
        raise ValueError(f"pose estimator {name!r} is unknown; choose one of {', '.join(list_poses())}")
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate={drop_rate} must be at least 0 and less than 1")
    variant = VARIANTS[name]
    block = functools.partial(PoseBlock, drop_rate=drop_rate)
    arguments = {**(variant.changes or {}), "block": block, **changes}
    model = init_pose_(PoseNetwork(timm.create_model(variant.backbone, **arguments), num_keypoints))
    model.crop_size, model.sigma = variant.crop_size, variant.sigma
    if pretrained_backbone is not False:
        source = pretrained_backbone
        if source is True:
            cfg = timm.models.get_pretrained_cfg(variant.backbone)
            assert cfg is not None
            source = fetch_pretrained(cfg)
        load_official(model.backbone, source)
    if pretrained is not False:
        own = OfficialCfg(architecture=name, manual_url=variant.manual_url)
        load_official(model, fetch_pretrained(own) if pretrained is True else pretrained)
    return model
