"""Heat maps of key points from a backbone's highest resolution (HRVMamba, section on human pose estimation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.backbones.hrvmamba import Block
from visionssm.backbones.hrvmamba import checkpoint_filter_fn as backbone_keys
from visionssm.heads.pose.codec import MULTIPLE
from visionssm.layers.image import checked_images
from visionssm.layers.leaf import leaf_function


class PoseBlock(Block):
    """HRVMamba's block as its pose estimators have it: nothing is dropped from the multi-scale convolutions.

    Args:
        drop_rate: dropout after the scan, and of the MLP's hidden and last channels.
        dim, offset_conv, drop_path: see `Block`.
    """

    def __init__(
        self, dim: int, *, offset_conv: bool, drop_path: float, drop_rate: float = 0.0, **factory: Any
    ) -> None:
        super().__init__(dim, offset_conv=offset_conv, drop_path=drop_path, **factory)
        self.multi_scale_drop_path = nn.Identity()
        self.mlp.drop1 = nn.Dropout(drop_rate)
        self.drop_path = nn.Sequential(nn.Dropout(drop_rate), self.drop_path)  # after the scan and after the MLP


class HeatmapHead(nn.Module):
    """A 1×1 convolution to one map per key point.

    Args:
        dim: C, channels of the feature map.
        num_keypoints: K.
    """

    def __init__(self, dim: int, num_keypoints: int, **factory: Any) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(dim, num_keypoints, 1, **factory)
        nn.init.normal_(self.final_layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K, H, W)."""
        return self.final_layer(x)


class PoseNetwork(nn.Module):
    """Crops of one person each to a heat map per key point; `visionssm.heads.pose.codec` reads points from them.

    Keys are those of the authors' files: `backbone.` and `head.final_layer.`.

    Args:
        backbone: a model of this package, or any with `feature_info` and timm's `forward_intermediates` and
            `prune_intermediate_layers`. What its first feature level does not need is dropped.
        num_keypoints: K.

    Attributes:
        crop_size: height and width of the crops that the network is meant for; any multiples of 32 can be given.
        sigma: of the heat maps that it learns from, in their pixels.

    Raises:
        ValueError: there is no key point, or the backbone's first level is not a quarter of the image.

    Examples:
        >>> import timm
        >>> model = PoseNetwork(timm.create_model("hrvmamba_nano_test"), num_keypoints=14).eval()
        >>> model(torch.zeros(2, 3, 128, 96)).shape
        torch.Size([2, 14, 32, 24])
    """

    crop_size: tuple[int, int] = (256, 192)
    sigma: float = 2.0

    def __init__(self, backbone: nn.Module, num_keypoints: int) -> None:
        super().__init__()
        if num_keypoints < 1:
            raise ValueError(f"num_keypoints must be at least 1, got {num_keypoints}")
        model: Any = backbone
        complete = set(model.state_dict())
        model.prune_intermediate_layers([0], prune_norm=True, prune_head=True)
        # files of the classifier, of which the backbone may start, have more
        model.dropped_keys = frozenset(complete - set(model.state_dict())) | getattr(model, "dropped_keys", frozenset())
        (level,) = model.feature_info[:1]
        if level["reduction"] != 4:
            raise ValueError(f"the backbone's first level has stride {level['reduction']}; heat maps have stride 4")
        self.num_keypoints = num_keypoints
        self.backbone = model
        like = next(model.parameters())
        self.head = HeatmapHead(level["num_chs"], num_keypoints, device=like.device, dtype=like.dtype)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) crops, normalised as ImageNet's, to (B, K, H/4, W/4) heat maps.

        Raises:
            ValueError: a side is no multiple of 32, or `crops` is no batch of images.
        """
        (features,) = self.backbone.forward_intermediates(
            _checked_crops(crops), indices=[0], stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        return self.head(features)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute blocks in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that the published recipe does not decay, beside biases and other 1-D parameters."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The authors' keys to ours, for `visionssm.load_official`; a file's normalisation of images is left out."""
        out = {name: value for name, value in state_dict.items() if not name.startswith(("backbone.", "data_prepro"))}
        backbone = {name: value for name, value in state_dict.items() if name.startswith("backbone.")}
        if backbone:
            renamed = backbone_keys(backbone, model.get_submodule("backbone"))
            out |= {f"backbone.{name}": value for name, value in renamed.items()}
        return out


@leaf_function
def _checked_crops(crops: Tensor) -> Tensor:
    """`crops`, if HRVMamba can halve them to its lowest resolution."""
    if torch.compiler.is_compiling():  # sizes may be open
        return crops
    checked_images(crops, 3, MULTIPLE)
    height, width = crops.shape[2:]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"crops of {height}x{width} pixels must have sides that are multiples of {MULTIPLE}")
    return crops


@torch.no_grad()
def init_pose_(model: PoseNetwork) -> PoseNetwork:
    """Start as the published pose estimators: linear layers as PyTorch does, deformable convolutions at 0."""
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
            if name.endswith("offset_mask"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
    return model
