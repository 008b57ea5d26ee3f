"""The backbone of Mamba-YOLO (Wang et al. 2024, arXiv 2406.05835): four stages of ODSS blocks.

A block looks at its neighbourhood first (LS block), then scans the map (gated SS2D), then mixes the channels (RG
block). The paper trains it as part of a detector and never as a classifier; the detector is in `visionssm.heads.yolo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._keys import Rename, convolutions_to_linear, rename_keys
from visionssm.backbones._stages import StagedBackbone
from visionssm.checkpoints import WRAPPER_KEYS, OfficialCfg
from visionssm.layers import GatedSS2D, MapClassifierHead, MapConv2d
from visionssm.layers.cells import into_cells
from visionssm.layers.conv import Activation, activated
from visionssm.layers.stem import image_to_map

PAPER = {
    "paper_name": "Mamba YOLO: A Simple Baseline for Object Detection with State Space Model",
    "paper_ids": "arXiv:2406.05835",
}

LAYER_NORM_EPS = 1e-6  # of the blocks; the mixer's own norm has PyTorch's 1e-5

CHECKPOINT_KEYS = ("ema", *WRAPPER_KEYS)
"""Where the authors' training puts weights: their moving average is what it evaluates."""


def batch_norm(dim: int, **factory: Any) -> nn.BatchNorm2d:
    """With the numbers that all norms of the paper's convolutions have."""
    return nn.BatchNorm2d(dim, eps=1e-3, momentum=0.03, **factory)


class ConvNorm(nn.Module):
    """Convolution of a channels-last map, BatchNorm, activation.

    Args:
        dim: channels in.
        out_dim: channels out.
        kernel: odd side; the padding keeps the size at stride 1.
        stride: step.
        bias: of the convolution.
        activation: after the norm.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        bias: bool = False,
        activation: Activation = F.silu,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.conv = MapConv2d(dim, out_dim, kernel, stride, padding=kernel // 2, bias=bias, **factory)
        self.norm = batch_norm(out_dim, **factory)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ⌈H/stride⌉, ⌈W/stride⌉, C')."""
        return self.activation(self.norm(self.conv(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class SimpleStem(nn.Sequential):
    """Two 3×3 stride-2 convolutions, GELU after the first and SiLU after the second: sizes round up."""

    def __init__(self, in_chans: int, dim: int, **factory: Any) -> None:
        super().__init__(
            ConvNorm(in_chans, dim // 2, 3, 2, activation=F.gelu, **factory),
            ConvNorm(dim // 2, dim, 3, 2, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
        return super().forward(image_to_map(x))


class VisionClueMerge(nn.Module):
    """2×2 neighbours side by side in the channels, 1×1 convolution to `out_dim`: sizes round up."""

    def __init__(self, dim: int, out_dim: int, **factory: Any) -> None:
        super().__init__()
        self.proj = ConvNorm(4 * dim, out_dim, bias=True, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        cells = into_cells(x, 2).permute(0, 1, 3, 4, 2, 5)  # row phase first: (0, 0), (1, 0), (0, 1), (1, 1)
        return self.proj(cells.flatten(3))


class GatedGeluSS2D(GatedSS2D):
    """VMamba's first mixer with GELU in place of SiLU, in the convolved branch and in the gate.

    Args:
        dim: C, channels of the map; 2·C are scanned, with N = 16.
    """

    activation: ClassVar[staticmethod[[Tensor], Tensor]] = staticmethod(F.gelu)

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(dim, ssm_ratio=2.0, d_state=16, conv_bias=True, **factory)

    @torch.no_grad()
    def init_scan(self) -> None:
        """The published initialisation: A = −1 for every state, D = 1, standard normal projection and bias of dt."""
        super().init_scan()
        self.A_logs.zero_()
        self.dt_projs_weight.normal_()
        self.dt_projs_bias.normal_()


class LocalSpatialBlock(nn.Module):
    """u + MLP(BN(depth-wise 3×3 convolution of u)): the LS block."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.fc1 = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory)
        self.norm = batch_norm(dim, **factory)
        self.fc2 = nn.Linear(dim, dim, **factory)
        self.fc3 = nn.Linear(dim, dim, **factory)

    def forward(self, u: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y = self.norm(self.fc1(u).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return u + self.fc3(F.gelu(self.fc2(y)))


class ResidualGatedBlock(nn.Module):
    """A gated MLP whose gate sees the neighbours, GELU(a + depth-wise convolution of a)·b: the RG block.

    Two thirds of 4·C channels are hidden, rounded down, which may be an odd number.
    """

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        hidden = 8 * dim // 3
        self.fc1 = nn.Linear(dim, 2 * hidden, **factory)
        self.dwconv = MapConv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden, **factory)
        self.fc2 = nn.Linear(hidden, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        a, b = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(activated(self.dwconv, a, F.gelu, residual=True) * b)


class ScanBlock(nn.Module):
    """w = u + mixer(LN(LS(u))) for u = proj(x), then w + RG(LN(w)).

    Args:
        dim: C, channels of `proj`'s output.
        proj: module from the block's input to (B, H, W, C).
        op: the mixer.
        drop_path: stochastic depth.
    """

    def __init__(self, dim: int, *, proj: nn.Module, op: nn.Module, drop_path: float = 0.0, **factory: Any) -> None:
        super().__init__()
        self.proj = proj
        self.lsblock = LocalSpatialBlock(dim, **factory)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, **factory)
        self.op = op
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS, **factory)
        self.mlp = ResidualGatedBlock(dim, **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) to (B, H, W, C)."""
        u = self.proj(x)
        w = u + self.drop_path(self.op(self.norm(self.lsblock(u))))
        return w + self.drop_path(self.mlp(self.norm2(w)))


class ODSSBlock(ScanBlock):
    """The backbone's block: a 1×1 convolution before it, and one mixer."""

    def __init__(self, dim: int, *, drop_path: float, **factory: Any) -> None:
        super().__init__(
            dim,
            proj=ConvNorm(dim, dim, bias=True, **factory),
            op=GatedGeluSS2D(dim, **factory),
            drop_path=drop_path,
            **factory,
        )


class UnnormedHead(MapClassifierHead):
    """timm's classifier head behind a norm that changes nothing, since the paper has none."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.norm: nn.Module = nn.Identity()


class MambaYoloBackbone(StagedBackbone):
    """Mamba-YOLO's backbone, any input size; a classifier is added as timm's models have it.

    Images are RGB in [0, 1], without normalisation.

    Args:
        dims: channels of the stages, at strides 4, 8, 16 and 32.
        depths: blocks per stage.
        options: the others of `StagedBackbone`.
    """

    head_type = UnnormedHead  # type: ignore[assignment]

    def __init__(
        self, *, dims: Sequence[int] = (32, 64, 128, 256), depths: Sequence[int] = (1, 1, 3, 1), **options: Any
    ) -> None:
        super().__init__(
            stem=SimpleStem,
            dims=dims,
            depths=depths,
            blocks=[ODSSBlock] * len(depths),
            downsample=VisionClueMerge,
            **options,
        )

    @staticmethod
    def init_module_(module: nn.Module) -> None:
        """PyTorch's own initialisation stays, but for the mixers' scans."""

    def no_weight_decay(self) -> set[str]:
        """The biases of the steps; A_logs is decayed."""
        return {"*.dt_projs_bias"}


BLOCK_RENAMES: Sequence[Rename] = (
    (r"(?<=\.)(?:proj_conv|in_proj|pw_linear)\.0\.", "proj.conv."),
    (r"(?<=\.)(?:proj_conv|in_proj|pw_linear)\.1\.", "proj.norm."),
    (r"(?<=\.)(norm2?)\.norm\.", r"\1."),
)
"""Names inside the authors' blocks to ours."""

_LAYERS: Sequence[Rename] = (
    (r"^0\.conv\.0\.", "patch_embed.0.conv."),
    (r"^0\.conv\.1\.", "patch_embed.0.norm."),
    (r"^0\.conv\.3\.", "patch_embed.1.conv."),
    (r"^0\.conv\.4\.", "patch_embed.1.norm."),
    (r"^([1357])\.(?=\d)", lambda found: f"layers.{int(found[1]) // 2}.blocks."),  # several blocks are numbered
    (r"^([1357])\.", lambda found: f"layers.{int(found[1]) // 2}.blocks.0."),
    (r"^([246])\.", lambda found: f"layers.{int(found[1]) // 2 - 1}.downsample."),
)

N_LAYERS = 8
"""Numbered layers of the authors' detector that are the backbone, from the first one on."""


def layer_names_to_ours(state_dict: StateDict) -> StateDict:
    """The authors' first `N_LAYERS` layers, "0.…" to "7.…", to the backbone's names."""
    return rename_keys(state_dict, [*BLOCK_RENAMES, *_LAYERS])


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours; of a detector, theirs or ours, its backbone."""
    if any(name.startswith("backbone.") for name in state_dict):
        parts = {name: value for name, value in state_dict.items() if name.startswith("backbone.")}
        return {name.removeprefix("backbone."): value for name, value in parts.items()}
    bare = {name.removeprefix("model."): value for name, value in state_dict.items()}
    kept = {name: value for name, value in bare.items() if _layer(name) is None or _layer(name) in range(N_LAYERS)}
    return convolutions_to_linear(layer_names_to_ours(kept), model)


def _layer(name: str) -> int | None:
    """The number that one of the authors' keys starts with."""
    first = name.split(".")[0]
    return int(first) if first.isdecimal() else None


def _cfg(side: int = 640) -> OfficialCfg:
    return imagenet_cfg(
        **PAPER,
        input_size=(3, side, side),
        pool_size=(side // 32, side // 32),
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        first_conv="patch_embed.0.conv",
        prefer=CHECKPOINT_KEYS,
    )


default_cfgs = generate_default_cfgs(
    {"mambayolo_t": _cfg(), "mambayolo_b": _cfg(), "mambayolo_l": _cfg(), "mambayolo_nano_test": _cfg(64)}
)

VARIANTS: dict[str, dict[str, Any]] = {
    "mambayolo_t": {"dims": (32, 64, 128, 256), "depths": (1, 1, 3, 1)},
    "mambayolo_b": {"dims": (64, 128, 256, 512), "depths": (1, 1, 3, 1)},
    "mambayolo_l": {"dims": (96, 192, 384, 576), "depths": (2, 2, 6, 2)},
    # 20 channels: timm's suite tells the layouts of a map by its shape, and the first map is of 16×16
    "mambayolo_nano_test": {"dims": (20, 24, 32, 48), "depths": (1, 1, 2, 1)},
}
_STRIDES_8_TO_32 = {"feature_indices": (1, 2, 3)}

register_variants(
    __name__,
    MambaYoloBackbone,
    {name: {**arguments, **_STRIDES_8_TO_32} for name, arguments in VARIANTS.items()},
    checkpoint_filter_fn,
)
