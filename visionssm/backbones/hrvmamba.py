"""HRVMamba (High-Resolution Visual State Space Model, 2024): four resolutions kept in parallel, exchanged repeatedly.

A stem as HRNet's, then three stages that add a branch of half the resolution each; every branch is a chain of blocks of
multi-scale convolutions, a scan over deformably sampled pixels, and an MLP. Nearly all else is convolutions, so maps
here are NCHW tensors in PyTorch's channels_last memory format, of which a block takes a channels-last view.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import checkpoint_seq, generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionssm.backbones._base import (
    HierarchicalBackbone,
    StateDict,
    imagenet_cfg,
    init_linear_,
    register_variants,
)
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.multi_scale import Depthwise, Norm, multi_scale
from visionssm.kernels.position_norm import position_norm
from visionssm.layers import SS2D, MapClassifierHead, MapConv2d
from visionssm.layers.dcnv4 import DCNv4
from visionssm.layers.hrnet import Bottleneck, PyramidNeck, conv_norm_relu, enlarge, fusion, same_conv
from visionssm.layers.image import checked_images
from visionssm.layers.linear import Mlp, plain
from visionssm.layers.memory_format import channels_last, image_map
from visionssm.layers.ss2d import default_dt_rank

PAPER = {"paper_name": "HRVMamba: High-Resolution Visual State Space Model"}

BRANCHES = 4
MULTI_SCALE_KERNELS = (3, 5, 7, 9)


class DeformableSS2D(SS2D):
    """SS2D of twice the channels with a deformable convolution, a group of it for every 16 channels of the map."""

    def __init__(self, dim: int, *, offset_conv: bool, **factory: Any) -> None:
        super().__init__(dim, ssm_ratio=2.0, **factory)
        self.conv2d = DCNv4(2 * dim, default_dt_rank(dim), offset_conv=offset_conv, **factory)  # type: ignore[assignment]


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, arXiv 1709.01507): the map times a gate per channel."""

    def __init__(self, dim: int, *, reduction: int = 8, device: Any = None, dtype: Any = None) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dim, dim // reduction, bias=False, **factory),
            nn.ReLU(),
            nn.Linear(dim // reduction, dim, bias=False, **factory),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return x * self.fc(x.mean((1, 2), keepdim=True))


class AttentiveDeformableSS2D(DeformableSS2D):
    """`DeformableSS2D` with channel attention before the last projection."""

    def __init__(self, dim: int, *, offset_conv: bool, **factory: Any) -> None:
        super().__init__(dim, offset_conv=offset_conv, **factory)
        self.se = ChannelAttention(2 * dim, **factory)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve, scan along the four routes, normalise and weigh the channels of a (B, H, W, D) map."""
        return self.se(super().mix(x))


def _depthwise_of(conv: nn.Module) -> Depthwise:
    assert isinstance(conv, MapConv2d)
    assert conv.bias is not None
    return Depthwise(conv.weight, conv.bias)


def _norm_of(norm: nn.Module) -> Norm:
    assert isinstance(norm, nn.LayerNorm)
    return Norm(norm.weight, norm.bias, norm.eps)


class Block(nn.Module):
    """x + multi-scale convolutions(x), then x + scan(LN(x)), then x + MLP(LN(x)).

    Args:
        dim: C, channels, a multiple of the number of kernels.
        offset_conv: a depth-wise convolution before the deformable convolution's offsets.
        drop_path: stochastic depth.
    """

    mixer: type[DeformableSS2D] = DeformableSS2D

    def __init__(self, dim: int, *, offset_conv: bool, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(dim, **factory)
        width = dim // len(MULTI_SCALE_KERNELS)
        self.conv2d = nn.ModuleList(_depthwise(width, kernel, **factory) for kernel in MULTI_SCALE_KERNELS)
        self.norm = nn.LayerNorm(dim, **factory)
        self.op = self.mixer(dim, offset_conv=offset_conv, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.mlp = Mlp(dim, 2 * dim, **factory)
        self.drop_path: nn.Module = DropPath(drop_path)
        self.multi_scale_drop_path: nn.Module = DropPath(drop_path)  # pose estimators have none here

    def multi_scale(self, x: Tensor) -> Tensor:
        """Normalise, convolve each quarter of the channels at its own scale, interleave the quarters, GELU."""
        quarters = self.norm0(x).chunk(len(MULTI_SCALE_KERNELS), dim=-1)
        scales = [conv(quarters[i]) for i, conv in enumerate(self.conv2d)]  # by number, for torch.fx
        return F.gelu(torch.stack(scales, dim=-1).flatten(-2))

    def compiled(self, x: Tensor) -> bool:
        """Whether compiled passes may stand for the parts: in inference on CPUs, and nobody looks at them."""
        return (
            type(x) is Tensor  # of another type are the symbols of a graph's tracer
            and not self.training
            and all(plain(norm, nn.LayerNorm) for norm in (self.norm0, self.norm, self.norm2))
            and all(plain(conv, MapConv2d) for conv in self.conv2d)
            and plain(self.drop_path, DropPath)
            and plain(self.multi_scale_drop_path, DropPath)
            and not torch.is_grad_enabled()
            and runs_compiled(x, self.norm.weight)
        )

    def scaled(self, x: Tensor, position: Depthwise | None) -> tuple[Tensor, Tensor]:
        """The block up to its scan, in a compiled pass, and the norm of that."""
        scales = tuple(_depthwise_of(conv) for conv in self.conv2d)
        return multi_scale(x, position, _norm_of(self.norm0), scales, _norm_of(self.norm))

    def transform(self, x: Tensor) -> Tensor:
        """The block on a (B, H, W, C) map."""
        if self.compiled(x):
            x, normed = self.scaled(x, None)
        else:
            x = x + self.multi_scale_drop_path(self.multi_scale(x))
            normed = self.norm(x)
        x = x + self.drop_path(self.op(normed))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.transform(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AttentiveBlock(Block):
    """`Block` with channel attention in the scan and two local position encodings.

    The first one reaches the multi-scale convolutions only, and not the sum around them.
    """

    mixer = AttentiveDeformableSS2D

    def __init__(self, dim: int, *, offset_conv: bool, drop_path: float, **factory: Any) -> None:
        super().__init__(dim, offset_conv=offset_conv, drop_path=drop_path, **factory)
        self.cpe1 = _depthwise(dim, 3, **factory)
        self.cpe2 = _depthwise(dim, 3, **factory)

    def compiled(self, x: Tensor) -> bool:
        """As that of the base class."""
        return plain(self.cpe1, MapConv2d) and plain(self.cpe2, MapConv2d) and super().compiled(x)

    def transform(self, x: Tensor) -> Tensor:
        """The block on a (B, H, W, C) map."""
        if self.compiled(x):
            x, normed = self.scaled(x, _depthwise_of(self.cpe1))
            x, normed = position_norm(x, self.op(normed), _depthwise_of(self.cpe2), _norm_of(self.norm2))
            return x + self.mlp(normed)
        x = x + self.multi_scale_drop_path(self.multi_scale(x + self.cpe1(x)))
        x = x + self.drop_path(self.op(self.norm(x)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Exchange(nn.Module):
    """Blocks in each branch, then every branch becomes the sum of all, brought to its resolution and width.

    Args:
        dims: channels of the branches, the highest resolution first.
        block: `Block` or `AttentiveBlock`.
        drop_path_rates: stochastic depth of the blocks of a branch; their number is the number of blocks.
        block_options: for the block.
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        block: type[Block],
        drop_path_rates: Sequence[float],
        offset_conv: bool,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(block(dim, offset_conv=offset_conv, drop_path=rate, **factory) for rate in drop_path_rates))
            for dim in dims
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fusion(dims, source, target, **factory) for source in range(len(dims)))
            for target in range(len(dims))
        )
        self.grad_checkpointing = False

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One (B, C, H, W) map per branch to the same shapes; an output that was pruned is an empty tensor."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            maps = [checkpoint_seq(branch, x) for branch, x in zip(self.branches, maps)]
        else:
            maps = [branch(x) for branch, x in zip(self.branches, maps)]
        fused = []
        for target, row in enumerate(self.fuse_layers):
            if not len(row):  # type: ignore[arg-type]
                fused.append(maps[target].new_empty(0))
                continue
            y = row[0](maps[0])  # type: ignore[index]
            for source in range(1, len(maps)):
                z = row[source](maps[source])  # type: ignore[index]
                y = y + (enlarge(z, 2 ** (source - target), maps[target]) if source > target else z)
            fused.append(F.relu(y))
        return fused

    def prune(self, outputs: Collection[int]) -> None:
        """Compute these outputs only; the modules that stay keep their names."""
        for target in set(range(len(self.fuse_layers))) - set(outputs):
            self.fuse_layers[target] = nn.ModuleList()


def _depthwise(dim: int, kernel: int, **factory: Any) -> MapConv2d:
    return MapConv2d(dim, dim, kernel_size=kernel, padding=kernel // 2, groups=dim, **factory)


class HRVMamba(HierarchicalBackbone):
    """HRVMamba classifier and feature extractor, any input size.

    There are eight feature levels. 0 to 3 are the four branches after the last stage, which the authors' pose
    estimators read: `out_indices=(0,)` is their top-down backbone, `(0, 1, 2, 3)` their bottom-up one. 4 to 7 are the
    pyramid of the neck, which the classifier and the segmentation models read. Pruning renumbers what it keeps, so
    that a pruned model has one pyramid, of falling resolutions as timm wants them.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: timm's pooling name, '' for unpooled maps.
        dims: channels of the four branches, multiples of 4.
        stem_dim: channels of the two stem convolutions.
        stage1_dim: inner channels of the first stage's bottlenecks, whose outputs have four times as many.
        modules: exchanges in stages 2, 3 and 4.
        depth: blocks per branch and exchange.
        block: `Block`, or `AttentiveBlock` with channel attention and position encodings.
        offset_conv: a depth-wise convolution before the deformable convolutions' offsets.
        neck_dims: channels of the neck's levels.
        neck_out_dim: channels of its last map, which the classifier reads.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over the blocks of stages 2 to 4; the published rates
            are in `configs/`.

    Raises:
        ValueError: a branch's channels are no multiple of 4, or there are not four branches.
    """

    feature_classes = ("getter",)  # two modules give four levels each

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        dims: Sequence[int] = (32, 64, 128, 256),
        stem_dim: int = 64,
        stage1_dim: int = 64,
        modules: Sequence[int] = (1, 4, 2),
        depth: int = 2,
        block: type[Block] = Block,
        offset_conv: bool = False,
        neck_dims: Sequence[int] = (128, 256, 512, 1024),
        neck_out_dim: int = 2048,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if len(dims) != BRANCHES or any(dim % len(MULTI_SCALE_KERNELS) for dim in dims):
            raise ValueError(f"dims={tuple(dims)} must be {BRANCHES} multiples of {len(MULTI_SCALE_KERNELS)}")
        factory = {"device": device, "dtype": dtype}
        super().__init__(in_chans=in_chans, num_classes=num_classes, dims=(neck_out_dim,))
        pyramid_dims = [*neck_dims[:-1], neck_out_dim]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": module}
            for module, widths in (("stage4", dims), ("neck", pyramid_dims))
            for i, dim in enumerate(widths)
        ]
        self.kept_levels = list(range(len(self.feature_info)))

        self.conv1, self.bn1 = (
            same_conv(in_chans, stem_dim, 3, stride=2, **factory),
            nn.BatchNorm2d(stem_dim, **factory),
        )
        self.conv2, self.bn2 = (
            same_conv(stem_dim, stem_dim, 3, stride=2, **factory),
            nn.BatchNorm2d(stem_dim, **factory),
        )
        wide = 4 * stage1_dim
        self.layer1 = nn.Sequential(Bottleneck(stem_dim, wide, **factory), Bottleneck(wide, wide, **factory))

        # In the transitions one slot is a branch; existing branches pass unchanged.
        self.transition1 = nn.ModuleList(
            [conv_norm_relu(wide, dims[0], 1, **factory), nn.Sequential(conv_norm_relu(wide, dims[1], 2, **factory))]
        )
        self.transition2, self.transition3 = (
            nn.ModuleList(
                [*(nn.Identity() for _ in dims[:n]), nn.Sequential(conv_norm_relu(dims[n - 1], dims[n], 2, **factory))]
            )
            for n in (2, 3)
        )
        rates: Any = calculate_drop_path_rates(drop_path_rate, [depth] * sum(modules), stagewise=True)
        exchanges = iter(rates)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                *(
                    Exchange(dims[:n], block=block, drop_path_rates=next(exchanges), offset_conv=offset_conv, **factory)
                    for _ in range(count)
                )
            )
            for n, count in zip((2, 3, 4), modules, strict=True)
        )
        self.neck: nn.Module = PyramidNeck(dims, neck_dims, neck_out_dim, **factory)
        self.head: MapClassifierHead = MapClassifierHead(  # type: ignore[assignment]
            neck_out_dim, num_classes, global_pool, drop_rate, **factory
        )
        self.apply(init_linear_)

    def forward_stages(self, x: Tensor) -> list[list[Tensor]]:
        """(B, C, H, W) image to the maps after each of the four stages: 1, 2, 3 and 4 of them."""
        x = image_map(checked_images(x, self.in_chans, 1))
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        stages = [[self.layer1(x)]]
        transitions = (self.transition1, self.transition2, self.transition3)
        for transition, stage in zip(transitions, (self.stage2, self.stage3, self.stage4)):
            last = stages[-1]
            maps = [channels_last(slot(last[min(i, len(last) - 1)])) for i, slot in enumerate(transition)]
            stages.append(stage(maps))
        return stages

    def forward_levels(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) image to the feature levels as (B, C, H', W') maps, without those that were pruned."""
        branches = self.forward_stages(x)[-1]
        levels = branches if isinstance(self.neck, nn.Identity) else [*branches, *self.neck(branches)]
        return [levels[i] for i in self.kept_levels]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to the last level's (B, H', W', num_features) map."""
        return self.forward_levels(x)[-1].permute(0, 2, 3, 1)

    @property
    def n_levels(self) -> int:
        """Levels that were not pruned."""
        return len(self.kept_levels)

    def tap_levels(self, x: Tensor, wanted: Sequence[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Feature levels, see the class; there is no norm to apply and nothing to stop before."""
        levels = [level.permute(0, 2, 3, 1) for level in self.forward_levels(x)]
        return levels[-1], [levels[i] for i in wanted]

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the other levels and what only they need; returns the indices that the given ones have then."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        shortened = last < len(self.feature_info) - 1
        kept = sorted(set(wanted))
        self.kept_levels = [self.kept_levels[i] for i in kept]
        self.feature_info = [self.feature_info[i] for i in kept]
        # The neck's levels up to the last one, each of which needs a branch.
        in_neck = self.kept_levels[-1] + 1 - BRANCHES
        if in_neck > 0:
            self.neck.prune(in_neck)  # type: ignore[operator]
        else:
            self.neck = nn.Identity()
        self.stage4[-1].prune({*self.kept_levels, *range(in_neck)})  # type: ignore[operator]
        if shortened:
            self.num_features = self.head_hidden_size = self.feature_info[-1]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return [kept.index(i) for i in wanted]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute blocks in the backward pass."""
        for module in self.modules():
            if isinstance(module, Exchange):
                module.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning-rate decay."""
        merged = (99999,)  # timm's mark for what goes with the layers before it
        blocks = [
            (r"^stage(\d)\.(\d+)\.branches\.\d+\.(\d+)", None),
            (r"^stage(\d)\.(\d+)\.fuse_layers", merged),
            (r"^transition(\d)", merged),
            (r"^neck", (99,)),
        ]
        stages = [(r"^(?:stage|transition)(\d)", None), (r"^neck", (99,))]
        return {"stem": r"^(?:conv|bn)\d|^layer1", "blocks": stages if coarse else blocks}


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours; of a pose or segmentation model, its backbone without the norms of its outputs."""
    if any(name.startswith("backbone.") for name in state_dict):
        parts = {name: value for name, value in state_dict.items() if name.startswith("backbone.")}
        state_dict = {name.removeprefix("backbone."): value for name, value in parts.items()}
    return {
        re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name): value
        for name, value in state_dict.items()
        if not re.match(r"outnorm\d\.", name)
    }


def _cfg(drive_id: str | None = None, size: int = 256, **overrides: Any) -> OfficialCfg:
    values = {
        "manual_url": f"https://drive.google.com/file/d/{drive_id}/view" if drive_id else None,
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0,
        "first_conv": "conv1",
    }
    return imagenet_cfg(**PAPER, **{**values, **overrides})


# The nano and tiny files were replaced in April 2026, together with a change of block from the attentive to the plain
# one; loading names the variant that a file fits.
default_cfgs = generate_default_cfgs(
    {
        "hrvmamba_nano.authors_in1k": _cfg("1aGN51e9tgMTdDDWm0wwCmGibAksp2QJ6"),
        "hrvmamba_nano_plain.authors_in1k": _cfg("1vjoEmX8NGh3D4aIB2zTP6eKN23zXmd7i"),
        "hrvmamba_tiny.authors_in1k": _cfg("1Vn-ZXzvx3Hrv_C2tDQWrOjtA9WxTvWaa"),
        "hrvmamba_tiny_plain.authors_in1k": _cfg("18MnK9b-Ip7RLevdAzzPBFNIe_BNHg2Ry"),
        "hrvmamba_small.authors_in1k": _cfg("1Gxo0Pxg2D7x3dU0P2AZ2YGEFS-7XMxIX"),
        "hrvmamba_base.authors_in1k": _cfg("1jbXjvCBdjgraeEaJrDjD2wStpxJtCEuy", size=224),
        "hrvmamba_nano_test": _cfg(size=64),
    }
)

_NANO: dict[str, Any] = {"dims": (8, 16, 32, 64), "stage1_dim": 16}
_TINY: dict[str, Any] = {"dims": (16, 32, 64, 128), "stage1_dim": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "hrvmamba_nano": {**_NANO, "block": AttentiveBlock},
    "hrvmamba_nano_plain": _NANO,
    "hrvmamba_tiny": {**_TINY, "block": AttentiveBlock},
    "hrvmamba_tiny_plain": _TINY,
    "hrvmamba_small": {"dims": (32, 64, 128, 256), "stage1_dim": 64},
    "hrvmamba_base": {"dims": (80, 160, 320, 640), "stage1_dim": 64, "offset_conv": True},
    "hrvmamba_nano_test": {
        "dims": (8, 16, 24, 32),
        "stem_dim": 16,
        "stage1_dim": 8,
        "modules": (1, 2, 2),
        "depth": 1,
        "block": AttentiveBlock,
        "offset_conv": True,
        "neck_dims": (32, 48, 64, 96),
        "neck_out_dim": 128,
    },
}

register_variants(__name__, HRVMamba, VARIANTS, checkpoint_filter_fn)
