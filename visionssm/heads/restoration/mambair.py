"""MambaIR (Guo et al. 2024, arXiv 2402.15648): super-resolution, denoising and JPEG artefacts.

SwinIR's frame with state-space blocks: groups of blocks at the image's own resolution, a long skip over all of them,
and one of three reconstructions. No part has a stride, so images of any size go in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.backbones._base import init_linear_
from visionssm.backbones._keys import Rename, rename_keys
from visionssm.checkpoints import CheckpointError
from visionssm.checkpoints.fitting import check_values, compare
from visionssm.checkpoints.load import convert_state_dict
from visionssm.layers import GatedSS2D
from visionssm.layers.conv import MapConv2d
from visionssm.layers.image import checked_images

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Of the colours of DIV2K's training images, in [0, 1]."""

SCALES = (1, 2, 3, 4)
_SQUEEZE = 30
"""Channels of the map over hidden channels of the channel attention."""

_conv3 = partial(MapConv2d, kernel_size=3, padding=1)
_conv1 = partial(MapConv2d, kernel_size=1)


class ChannelAttention(nn.Module):
    """x · sigmoid(conv(ReLU(conv(mean of x)))): one factor for each channel (RCAN, arXiv 1807.02758, equation 10)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // _SQUEEZE)
        self.squeeze, self.excite = _conv1(dim, hidden), _conv1(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        means = x.mean((1, 2), keepdim=True)
        return x * self.excite(F.relu(self.squeeze(means))).sigmoid()


class ConvBranch(nn.Sequential):
    """Two 3×3 convolutions with a third of the channels between them, then channel attention."""

    def __init__(self, dim: int) -> None:
        hidden = max(1, dim // 3)
        super().__init__(_conv3(dim, hidden), nn.GELU(), _conv3(hidden, dim), ChannelAttention(dim))


class LightConvBranch(nn.Sequential):
    """Separable 3×3 convolutions with half the channels between them, the second dilated; then channel attention."""

    def __init__(self, dim: int) -> None:
        hidden = max(1, dim // 2)
        super().__init__(
            _conv1(dim, hidden),
            _conv3(hidden, hidden, groups=hidden),
            nn.GELU(),
            _conv1(hidden, dim),
            MapConv2d(dim, dim, kernel_size=3, padding=2, dilation=2, groups=dim),
            ChannelAttention(dim),
        )


class ResidualBlock(nn.Module):
    """s₁·x + SS2D(LN(x)), then s₂·x + branch(LN(x)) (section 3.3), with learned scales of the skips, one a channel."""

    def __init__(self, dim: int, branch: nn.Module, *, d_state: int, expand: float, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = GatedSS2D(dim, ssm_ratio=expand, d_state=d_state, conv_bias=True)
        self.skip_scale = nn.Parameter(torch.ones(dim))
        self.norm2 = nn.LayerNorm(dim)
        self.branch = branch
        self.skip_scale2 = nn.Parameter(torch.ones(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x * self.skip_scale + self.drop_path(self.op(self.norm(x)))
        return x * self.skip_scale2 + self.branch(self.norm2(x))


class ResidualGroup(nn.Module):
    """x + conv(blocks(x))."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = _conv3(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return x + self.conv(self.blocks(x))


def _shuffled(x: Tensor, factor: int) -> Tensor:
    """(B, H, W, C·factor²) to (B, factor·H, factor·W, C)."""
    return F.pixel_shuffle(x.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


class ShuffleReconstruction(nn.Module):
    """Convolutions and pixel shuffles of 64 channels, a factor of two or three at a time (classic super-resolution)."""

    width = 64

    def __init__(self, dim: int, out_chans: int, scale: int) -> None:
        super().__init__()
        self.factors = [2, 2] if scale == 4 else [scale]
        self.before = _conv3(dim, self.width)
        self.upsample = nn.ModuleList(_conv3(self.width, self.width * factor**2) for factor in self.factors)
        self.last = _conv3(self.width, out_chans)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """(B, H, W, C) features to a (B, scale·H, scale·W, out_chans) image."""
        x = F.leaky_relu(self.before(features))
        for conv, factor in zip(self.upsample, self.factors, strict=True):
            x = _shuffled(conv(x), factor)
        return self.last(x)


class DirectReconstruction(nn.Module):
    """One convolution and a pixel shuffle (light super-resolution)."""

    def __init__(self, dim: int, out_chans: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.upsample = nn.ModuleList([_conv3(dim, out_chans * scale**2)])

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """(B, H, W, C) features to a (B, scale·H, scale·W, out_chans) image."""
        return _shuffled(self.upsample[0](features), self.scale)


class ResidualReconstruction(nn.Module):
    """The image plus a convolution of the features (denoising, JPEG artefacts)."""

    def __init__(self, dim: int, out_chans: int, scale: int) -> None:
        super().__init__()
        if scale != 1:
            raise ValueError(f"scale={scale} must be 1 where an image is corrected and not enlarged")
        self.last = _conv3(dim, out_chans)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """(B, H, W, C) features and the (B, H, W, out_chans) image to such an image."""
        return image + self.last(features)


BRANCHES: Mapping[str, type[nn.Module]] = {"conv": ConvBranch, "light": LightConvBranch}
RECONSTRUCTIONS: Mapping[str, type[nn.Module]] = {
    "shuffle": ShuffleReconstruction,
    "direct": DirectReconstruction,
    "residual": ResidualReconstruction,
}


class MambaIR(nn.Module):
    """MambaIR, any image size.

    Args:
        in_chans: channels of the images, in and out. The mean of three is taken out before and added after.
        scale: sides of the result over sides of the image.
        dim: C, channels of all maps.
        depths: blocks of every group.
        d_state: N, states of a channel.
        expand: int(expand·C) channels are scanned.
        branch: what follows the scan in a block, one of `BRANCHES`.
        reconstruction: features to an image, one of `RECONSTRUCTIONS`.
        drop_path_rate: of the last block; the others have less.
    Raises:
        ValueError: an argument is out of range.
    """

    checkpoint_keys = ("params_ema", "params", "model", "state_dict", "model_ema")

    def __init__(
        self,
        *,
        in_chans: int = 3,
        scale: int = 2,
        dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        d_state: int = 16,
        expand: float = 2.0,
        branch: str = "conv",
        reconstruction: str = "shuffle",
        drop_path_rate: float = 0.1,
    ) -> None:
        for argument, value in (("in_chans", in_chans), ("dim", dim), ("d_state", d_state)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{argument} must be a whole number, at least 1, got {value!r}")
        if type(scale) is not int or scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(map(str, SCALES))}, got {scale!r}")
        if not depths or any(type(depth) is not int or depth < 1 for depth in depths):
            raise ValueError(f"depths must be whole numbers, each at least 1, got {depths!r}")
        if int(expand * dim) < 1:
            raise ValueError(f"expand={expand} leaves none of {dim} channels to scan")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={drop_path_rate} must be at least 0 and less than 1")
        for argument, name, known in (
            ("branch", branch, BRANCHES),
            ("reconstruction", reconstruction, RECONSTRUCTIONS),
        ):
            if name not in known:
                raise ValueError(f"{argument}={name!r} is unknown; choose one of {', '.join(known)}")
        super().__init__()
        self.in_chans, self.scale = in_chans, scale
        mean = DIV2K_MEAN if in_chans == 3 else (0.0,) * in_chans
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.conv_first = _conv3(in_chans, dim)
        self.norm_first = nn.LayerNorm(dim)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.layers = nn.ModuleList(
            ResidualGroup(
                dim,
                [
                    ResidualBlock(dim, BRANCHES[branch](dim), d_state=d_state, expand=expand, drop_path=rate)
                    for rate in group.tolist()
                ],
            )
            for group in rates
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = _conv3(dim, dim)
        self.reconstruct = RECONSTRUCTIONS[reconstruction](dim, in_chans, scale)
        self.apply(init_linear_)

    def no_weight_decay(self) -> set[str]:
        """A_logs and Ds; biases, norms and scales of skips are 1-D and not decayed either."""
        return {"*.A_logs", "*.Ds"}

    def load_body(self, source: str | Path | Mapping[str, Any]) -> None:
        """Start from a network of another scale, as the authors do for ×3 and ×4: all but the reconstruction.

        Args:
            source: a file of the authors or of ours, or what was read from one.
        Raises:
            CheckpointError: other keys are missing, or weights do not fit; nothing is loaded then.
        """
        state = {key: x for key, x in convert_state_dict(self, source).items() if not key.startswith("reconstruct.")}
        mismatch = compare(state, self).without(frozenset(k for k in self.state_dict() if k.startswith("reconstruct.")))
        if mismatch:
            raise CheckpointError(f"the body cannot start from these weights; nothing was loaded:\n{mismatch}")
        check_values(state, self, "the file for the body")
        self.load_state_dict(state, strict=False)

    def features(self, shallow: Tensor) -> Tensor:
        """What the groups make of the first convolution's map: (B, H, W, C) to the same shape."""
        x = self.norm_first(shallow)
        for group in self.layers:
            x = group(x)
        return self.conv_after_body(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) in [0, 1] to (B, in_chans, scale·H, scale·W), which may leave [0, 1] a little.

        Raises:
            ValueError: `x` has another shape, no pixels, or whole numbers.
        """
        x = checked_images(x, self.in_chans, 1)
        centred = x.permute(0, 2, 3, 1) - self.mean
        shallow = self.conv_first(centred)
        image = self.reconstruct(shallow + self.features(shallow), centred) + self.mean
        return image.permute(0, 3, 1, 2).contiguous()


_RENAMES: Sequence[Rename] = (
    (r"^patch_embed\.norm\.", "norm_first."),
    (r"\.residual_group\.blocks\.", ".blocks."),
    (r"\.ln_1\.", ".norm."),
    (r"\.ln_2\.", ".norm2."),
    (r"\.self_attention\.", ".op."),
    (r"\.conv_blk\.cab\.", ".branch."),
    (r"\.attention\.1\.", ".squeeze."),
    (r"\.attention\.3\.", ".excite."),
    (r"^conv_before_upsample\.0\.", "reconstruct.before."),
    (r"^upsample\.0\.", "reconstruct.upsample.0."),
    (r"^upsample\.2\.", "reconstruct.upsample.1."),
    (r"^conv_last\.", "reconstruct.last."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys to ours."""
    return rename_keys(dict(state_dict), _RENAMES)
