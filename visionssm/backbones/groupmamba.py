"""GroupMamba (Shaker et al. 2024, arXiv 2407.13772): four channel groups, each scanned in one direction.

Every block normalises its input, sends each quarter of the channels through a small SS2D of its own, multiplies the
result by the input and by a channel affinity, and normalises again with the same weights. A block over a class token
pools the last map, and two classifiers read it: one for the labels, one for a teacher.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torchvision.ops import Permute

from visionssm.backbones._base import StateDict, imagenet_cfg, init_linear_, register_variants
from visionssm.backbones._stages import StagedBackbone
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import routes
from visionssm.layers import MapConv2d, NormClassifierHead, RouteScan
from visionssm.layers.conv import PreciseConv2d, activated
from visionssm.layers.linear import Mlp, linear
from visionssm.layers.memory_format import channels_last
from visionssm.layers.ss2d import default_dt_rank

PAPER = {"paper_name": "GroupMamba: Efficient Group-Based Visual State Space Model", "paper_ids": "arXiv:2407.13772"}

GROUPS = 4  # one per direction: rows, columns, reversed rows, reversed columns
NORM_EPS = 1e-6  # of the norms outside the mixer and the patch embeddings, which have 1e-5


class GroupedLinear(nn.Module):
    """One linear map per channel group, without bias; the groups' weights stand one below the other."""

    def __init__(self, groups: int, in_features: int, out_features: int, **factory: Any) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups * out_features, in_features, **factory))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(…, G, in) to (…, G, out)."""
        return torch.einsum("...gi,goi->...go", x, self.weight.unflatten(0, (self.groups, -1)))


class GroupedLayerNorm(nn.Module):
    """LayerNorm over the channels of each group, with one weight and one bias per channel."""

    def __init__(self, groups: int, features: int, *, eps: float = 1e-5, **factory: Any) -> None:
        super().__init__()
        self.shape, self.eps = (groups, features), eps
        self.weight = nn.Parameter(torch.ones(groups * features, **factory))
        self.bias = nn.Parameter(torch.zeros(groups * features, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """(…, G, D/G) to the same shape."""
        x = F.layer_norm(x, self.shape[-1:], eps=self.eps)
        return x * self.weight.view(self.shape) + self.bias.view(self.shape)


class GroupSS2D(RouteScan):
    """Four gated SS2D side by side, of a quarter of the channels and one route each, as one convolution and one scan.

    Args:
        dim: C, channels of the map, a multiple of 4.
    """

    def __init__(self, dim: int, **factory: Any) -> None:
        width = dim // GROUPS
        super().__init__(width, d_state=1, dt_rank=default_dt_rank(width), n_routes=GROUPS, **factory)
        self.in_proj = GroupedLinear(GROUPS, width, 2 * width, **factory)
        self.conv2d = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory)
        self.out_norm = GroupedLayerNorm(GROUPS, width, **factory)
        self.out_proj = GroupedLinear(GROUPS, width, width, **factory)

    def project(self, u: Tensor) -> Tensor:
        """dt, B and C of every pixel, each group's from its own channels: (B, L, C) to (B, L, 4, R + 2)."""
        return torch.einsum("blkd,krd->blkr", u.unflatten(-1, (GROUPS, -1)), self.x_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = self.in_proj(x.unflatten(-1, (GROUPS, -1))).chunk(2, dim=-1)  # (B, H, W, 4, C/4) each
        u = activated(self.conv2d, x.flatten(-2), F.silu)
        y = self.scan(u, routes.ss2d(u.shape[1], u.shape[2], device=u.device))
        y = self.out_norm(y.unflatten(-1, (GROUPS, -1))) * F.silu(z)
        return self.out_proj(y).flatten(-2)


class ModulatedGroupLayer(nn.Module):
    """The mixer: proj(LN(affinity(u) · skip_scale · u · GroupSS2D(u))) with u = LN(x), one LayerNorm used twice."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.mamba = GroupSS2D(dim, **factory)
        self.skip_scale = nn.Parameter(torch.ones(1, **factory))
        self.fc1 = nn.Linear(dim, dim // 16, **factory)
        self.fc2 = nn.Linear(dim // 16, dim, **factory)
        self.proj = nn.Linear(dim, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        u = self.norm(x)
        affinity = torch.sigmoid(self.fc2(F.relu(self.fc1(u.mean((1, 2), keepdim=True)))))  # (B, 1, 1, C)
        return linear(self.proj, self.norm(self.mamba(u) * self.skip_scale * u * affinity))


class DepthwiseMlp(nn.Module):
    """Linear, depth-wise 3×3 convolution, GELU, linear (PVTv2, arXiv 2106.13797)."""

    def __init__(self, dim: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, **factory)
        self.dwconv = MapConv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden, **factory)
        self.fc2 = nn.Linear(hidden, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return linear(self.fc2, activated(self.dwconv, linear(self.fc1, x), F.gelu))


class GroupMambaBlock(nn.Module):
    """x + mixer(x), which normalises by itself, then x + MLP(LN(x))."""

    def __init__(self, dim: int, *, mlp_ratio: float, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.attn = ModulatedGroupLayer(dim, **factory)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS, **factory)
        self.mlp = DepthwiseMlp(dim, int(mlp_ratio * dim), **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ClassBlock(nn.Module):
    """A block on the class token alone, which is a map of one pixel: c + LN(mixer(c)), then c + MLP(LN(c))."""

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, **factory: Any) -> None:
        super().__init__()
        self.attn = ModulatedGroupLayer(dim, **factory)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS, **factory)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS, **factory)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), **factory)

    def forward(self, token: Tensor) -> Tensor:
        """(B, C) to the same shape."""
        token = token + self.norm1(self.attn(token[:, None, None]))[:, 0, 0]
        return token + self.mlp(self.norm2(token))


class DistilledHead(NormClassifierHead):
    """Pool, class block, norm, and two classifiers: `fc` for the labels and `dist_fc` for a teacher's answers.

    The logits are the mean of the two, except while `distilled_training` and training mode are both on: then they are
    the pair (logits, teacher logits) that `DistillationLoss` takes. The class block works on a pooled
    token, so an unpooled map (`pool_type=''`) skips it and is normalised only.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, pool_type: str, drop_rate: float = 0.0, **factory: Any
    ) -> None:
        _check_pooling(pool_type)
        super().__init__(
            in_features, num_classes, pool_type=pool_type, drop_rate=drop_rate, norm_eps=NORM_EPS, **factory
        )
        self.class_block: nn.Module = ClassBlock(in_features, **factory)
        self.dist_fc = nn.Linear(in_features, num_classes, **factory) if num_classes else nn.Identity()
        self.distilled_training = False

    def reset(self, num_classes: int, pool_type: str | None = None, *args: Any, **kwargs: Any) -> None:
        """New, untrained classifiers; see `timm.layers.ClassifierHead.reset`."""
        _check_pooling(pool_type)
        super().reset(num_classes, pool_type, *args, **kwargs)
        factory = {"device": self.fc.weight.device, "dtype": self.fc.weight.dtype} if num_classes else {}
        self.dist_fc = nn.Linear(self.num_features, num_classes, **factory) if num_classes else nn.Identity()
        self.dist_fc.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Any:
        """(B, H, W, C) to (B, num_classes), to a pair of them, or to pooled features with `pre_logits`."""
        x = self.global_pool(x)
        if self.global_pool.pool_type:
            x = self.class_block(x)
        x = self.drop(self.norm(x))
        if pre_logits:
            return x
        logits, teacher_logits = self.fc(x), self.dist_fc(x)
        if self.distilled_training and self.training:
            return logits, teacher_logits
        return (logits + teacher_logits) / 2


def _check_pooling(pool_type: str | None) -> None:
    if pool_type == "catavgmax":
        raise ValueError("global_pool='catavgmax' doubles the width that GroupMamba's class block has; choose avg")


class GroupMambaStem(nn.Sequential):
    """Three convolutions with BatchNorm and ReLU (the first 7×7 with stride 2), a 3×3 one with stride 2, LayerNorm."""

    def __init__(self, in_chans: int, dim: int, *, hidden: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for slot, (channels, kernel, stride) in zip((0, 3, 6), ((in_chans, 7, 2), (hidden, 3, 1), (hidden, 3, 1))):
            conv = PreciseConv2d(channels, hidden, kernel, stride, padding=kernel // 2, bias=False, **factory)
            modules[f"{slot}"] = conv
            modules[f"{slot + 1}"] = nn.BatchNorm2d(hidden, **factory)
            modules[f"{slot + 2}"] = nn.ReLU()
        modules["proj"] = PreciseConv2d(hidden, dim, kernel_size=3, stride=2, padding=1, **factory)
        modules["to_map"] = Permute([0, 2, 3, 1])
        modules["norm"] = nn.LayerNorm(dim, **factory)
        super().__init__(modules)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
        return super().forward(channels_last(x))


class GroupMamba(StagedBackbone):
    """GroupMamba classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dims: channels per stage, multiples of 4.
        stem_dim: channels of the stem's first three convolutions.
        mlp_ratios: hidden channels of the MLP over channels, per stage.
        options: the others of `StagedBackbone`; `global_pool` is 'avg' or 'max', which make the class token, or ''.

    Raises:
        ValueError: a stage's channels are no multiple of 4, or the pooling changes their number.
    """

    head_type = DistilledHead
    head: DistilledHead

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 9, 3),
        dims: Sequence[int] = (64, 128, 348, 448),
        stem_dim: int = 32,
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        **options: Any,
    ) -> None:
        if any(dim % GROUPS for dim in dims):
            raise ValueError(f"dims={tuple(dims)} must be multiples of {GROUPS}, the number of channel groups")
        super().__init__(
            stem=partial(GroupMambaStem, hidden=stem_dim),
            dims=dims,
            depths=depths,
            blocks=[partial(GroupMambaBlock, mlp_ratio=ratio) for ratio in mlp_ratios],
            downsample=_downsample,
            **options,
        )

    @staticmethod
    def init_module_(module: nn.Module) -> None:
        """Linear layers as in all families; convolutions normal with variance 2 / fan_out."""
        init_linear_(module)
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, nn.Module]:  # type: ignore[override]
        """The classifiers of the labels and of the teacher's answers."""
        return self.head.fc, self.head.dist_fc

    @torch.jit.ignore
    def set_distilled_training(self, enable: bool = True) -> None:
        """In training mode, return (logits, teacher logits) instead of their mean, for a distillation loss."""
        self.head.distilled_training = enable

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what is not needed to compute the given stages; returns their indices."""
        stages = len(self.layers)
        wanted = super().prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        if prune_head or len(self.layers) < stages:
            self.head.class_block = nn.Identity()
        return wanted


def _downsample(dim: int, next_dim: int, **factory: Any) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(dim, eps=NORM_EPS, **factory),
        MapConv2d(dim, next_dim, kernel_size=3, stride=2, padding=1, **factory),
        nn.LayerNorm(next_dim, **factory),
    )


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours; the parameters of the four groups are put one below the other."""
    renames = (
        (r"^patch_embed1\.(conv\.)?", "patch_embed."),
        (r"^block(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) - 1}.blocks.{m[2]}."),
        (r"^norm4\.", "head.norm."),
        (r"^norm(\d+)\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.0."),
        (r"^patch_embed(\d+)\.proj\.", lambda m: f"layers.{int(m[1]) - 2}.downsample.1."),
        (r"^patch_embed(\d+)\.norm\.", lambda m: f"layers.{int(m[1]) - 2}.downsample.2."),
        (r"^post_network\.0\.", "head.class_block."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
        (r"^dist_head\.", "head.dist_fc."),
        (r"\.dwconv\.dwconv\.", ".dwconv."),
    )
    out: StateDict = {}
    groups: dict[str, StateDict] = defaultdict(dict)
    for name, value in state_dict.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        group = re.search(r"\.mamba_g(\d)\.", name)
        if group:
            groups[name.replace(group[0], ".mamba.")][group[1]] = value
        else:
            out[name] = value
    for name, parts in groups.items():
        out[name] = torch.cat([parts[f"{number}"] for number in range(1, GROUPS + 1)])
    return out


def _cfg(drive_id: str | None = None, size: str | None = None, **overrides: Any) -> OfficialCfg:
    return imagenet_cfg(
        **PAPER,
        hub_page=f"Abdelrahman-shaker/GroupMamba-{size}" if size else None,
        manual_url=f"https://drive.google.com/file/d/{drive_id}/view" if drive_id else None,
        classifier=("head.fc", "head.dist_fc"),
        **overrides,
    )


default_cfgs = generate_default_cfgs(
    {
        "groupmamba_tiny.authors_in1k": _cfg("1TrYYs0uGZbja_2ONQLyfiNdp8C5ZYP1o", "Tiny"),
        "groupmamba_small.authors_in1k": _cfg("1vTN9ynDcsDuOVrcT9GcQ5nBSk-hXySlh", "Small"),
        "groupmamba_base.authors_in1k": _cfg("1A_srBeDYpsinU5W3PAEADu1saoz413EU", "Base"),
        "groupmamba_nano_test": _cfg(input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)

VARIANTS: dict[str, dict[str, Any]] = {
    "groupmamba_tiny": {"depths": (3, 4, 9, 3), "dims": (64, 128, 348, 448), "stem_dim": 32},
    "groupmamba_small": {"depths": (3, 4, 16, 3), "dims": (64, 128, 348, 512), "stem_dim": 64},
    "groupmamba_base": {"depths": (3, 6, 21, 3), "dims": (96, 192, 424, 512), "stem_dim": 64},
    "groupmamba_nano_test": {"depths": (1, 1, 1, 1), "dims": (32, 48, 64, 80), "stem_dim": 16},
}

register_variants(__name__, GroupMamba, VARIANTS, checkpoint_filter_fn)
