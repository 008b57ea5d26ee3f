"""MSVMamba (Shi et al. 2024, arXiv 2405.14174): one scan at full resolution, three at half, both generations.

The first generation ("v1": nano, micro, tiny) and the one that the authors call v3 (tiny, small, base) share the idea
and little else: stems, downsampling, where the mixer and the FFN normalise, how the half-size map is enlarged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath
from timm.layers.squeeze_excite import SqueezeExciteCl
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._keys import rename_keys, vmamba_to_ours
from visionssm.backbones._stages import StagedBackbone, doubled
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import routes
from visionssm.layers import (
    MapConv2d,
    OverlappingStem,
    PatchMerging,
    PatchStem,
    RouteScan,
    StridedConvDownsample,
)
from visionssm.layers.conv import activated
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import linear
from visionssm.layers.ss2d import default_dt_rank

PAPER = {
    "paper_name": "Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model",
    "paper_ids": "arXiv:2405.14174",
}


class MultiScaleSS2D(nn.Module):
    """A scan of the map along its rows, and one of a half-size map along three orders, added; no gate.

    The two maps are convolutions of one projection. The half-size map's orders (reversed rows, columns, reversed
    columns) are one sequence, through which one state flows with one parameter set.

    Args:
        dim: C, channels of the map.
        ssm_ratio: D = ssm_ratio·C channels are scanned, with N = 1.
    """

    in_copies = 1  # how many D-wide parts in_proj makes

    def __init__(self, dim: int, *, ssm_ratio: float, **factory: Any) -> None:
        super().__init__()
        inner = int(ssm_ratio * dim)
        self.in_proj = nn.Linear(dim, self.in_copies * inner, bias=False, **factory)
        self.conv2d = MapConv2d(inner, inner, kernel_size=3, padding=1, groups=inner, **factory)
        self.conv2d_b1 = MapConv2d(inner, inner, kernel_size=7, stride=2, padding=3, groups=inner, **factory)
        self.full = RouteScan(inner, d_state=1, dt_rank=default_dt_rank(dim), n_routes=1, **factory)
        self.low = RouteScan(inner, d_state=1, dt_rank=default_dt_rank(dim), n_routes=1, **factory)
        self.out_norm = nn.LayerNorm(inner, **factory)
        self.se = SqueezeExciteCl(inner, rd_channels=inner // 8, bias=False, **factory)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)

    def scan_scales(self, full: Tensor, low: Tensor) -> Tensor:
        """Scan, enlarge, add and normalise: (B, H, W, D) and (B, ⌈H/2⌉, ⌈W/2⌉, D) to (B, H, W, D)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its two scales are merged")

    def mix(self, x: Tensor) -> Tensor:
        """Convolve at both resolutions, scan, and weigh the channels of a (B, H, W, D) map."""
        return self.se(self.scan_scales(activated(self.conv2d, x, F.silu), activated(self.conv2d_b1, x, F.silu)))

    def scan_full(self, full: Tensor) -> Tensor:
        """(B, H, W, D) along its rows."""
        return self.full.scan(full, routes.raster(full.shape[1], full.shape[2], device=full.device))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return linear(self.out_proj, self.mix(linear(self.in_proj, x)))


class GatedMultiScaleSS2D(MultiScaleSS2D):
    """As `MultiScaleSS2D`, with a gate branch SiLU(z) that multiplies the result."""

    in_copies = 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = linear(self.in_proj, x).chunk(2, dim=-1)
        return linear(self.out_proj, self.mix(x) * F.silu(z))


@leaf_module  # as all that scans
class MixerV1(GatedMultiScaleSS2D):
    """Every visit of a pixel is normalised by itself, before the sum; the half-size map is enlarged bilinearly."""

    def scan_scales(self, full: Tensor, low: Tensor) -> Tensor:
        """(B, H, W, D) and (B, ⌈H/2⌉, ⌈W/2⌉, D) to (B, H, W, D)."""
        _, height, width, _ = low.shape
        pixels = low.flatten(1, 2)
        projected = self.low.project(pixels)
        # The three visits are wanted apart: three scans, each starting from the state that the last one left.
        normalised, state = [], None
        for order in (routes.reversed_raster, routes.column, routes.reversed_column):
            visits, state = self.low.scan_pixels(
                pixels, projected, order(height, width, device=low.device), initial_state=state
            )
            normalised.append(self.out_norm(visits))
        first, second, third = normalised
        low = (first + second + third).view(low.shape)
        return self.out_norm(self.scan_full(full)) + _resize(low, like=full, mode="bilinear")


@leaf_module
class MixerV3(MultiScaleSS2D):
    """Visits are added by the scan itself; the half-size map is enlarged by repetition, and the sum normalised."""

    def scan_scales(self, full: Tensor, low: Tensor) -> Tensor:
        """(B, H, W, D) and (B, ⌈H/2⌉, ⌈W/2⌉, D) to (B, H, W, D)."""
        low = self.low.scan(low, routes.joined_low(low.shape[1], low.shape[2], device=low.device))
        return self.out_norm(self.scan_full(full) + _resize(low, like=full, mode="nearest"))


@leaf_module
class GatedMixerV3(GatedMultiScaleSS2D, MixerV3):
    """`MixerV3` with a gate, in the base size only."""


def _resize(x: Tensor, *, like: Tensor, mode: str) -> Tensor:
    """Interpolate a (B, h, w, C) map to the size of another."""
    return F.interpolate(x.permute(0, 3, 1, 2), size=like.shape[1:3], mode=mode).permute(0, 2, 3, 1)


class ConvFFN(nn.Module):
    """1×1 convolution, t + depth-wise 3×3 convolution of t, GELU, 1×1 convolution."""

    def __init__(self, dim: int, hidden: int, **factory: Any) -> None:
        super().__init__()
        self.linear1 = MapConv2d(dim, hidden, kernel_size=1, **factory)
        self.dwc = MapConv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden, **factory)
        self.linear2 = MapConv2d(hidden, dim, kernel_size=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = self.linear1(x)
        return self.linear2(activated(self.dwc, x, F.gelu, residual=True))


@dataclass(frozen=True)
class Generation:
    """The modules and numbers in which the published generations differ."""

    stem: type[nn.Module]
    block: type[BlockV1]
    mixer: type[MultiScaleSS2D]
    downsample: type[nn.Module]
    ssm_ratio: float
    ffn_ratio: int
    parameter_sets: tuple[str, str]  # the scans whose parameters are first and second in the authors' files


class BlockV1(nn.Module):
    """x + mixer(LN(x)), then x + FFN(LN(x))."""

    def __init__(self, dim: int, generation: Generation, *, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.op = generation.mixer(dim, ssm_ratio=generation.ssm_ratio, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.convFFN = ConvFFN(dim, generation.ffn_ratio * dim, **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.convFFN(self.norm2(x)))


class BlockV3(BlockV1):
    """x + mixer(LN(x)), then x + LN(FFN(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.norm2(self.convFFN(x)))


V1 = Generation(
    stem=PatchStem,
    block=BlockV1,
    mixer=MixerV1,
    downsample=PatchMerging,
    ssm_ratio=2.0,
    ffn_ratio=2,
    parameter_sets=("low", "full"),
)
V3 = Generation(
    stem=OverlappingStem,
    block=BlockV3,
    mixer=MixerV3,
    downsample=StridedConvDownsample,
    ssm_ratio=1.0,
    ffn_ratio=4,
    parameter_sets=("full", "low"),
)
V3_GATED = replace(V3, mixer=GatedMixerV3)


class MSVMamba(StagedBackbone):
    """MSVMamba classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        generation: `V1`, `V3` or `V3_GATED`.
        options: the others of `StagedBackbone`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 9, 2),
        dim: int = 96,
        generation: Generation = V3,
        **options: Any,
    ) -> None:
        block = partial(generation.block, generation=generation)
        super().__init__(
            stem=generation.stem,
            dims=doubled(dim, len(depths)),
            depths=depths,
            blocks=[block] * len(depths),
            downsample=generation.downsample,
            **options,
        )
        self.generation = generation


_SCAN_PARAMETER = re.compile(r"^(.*\.op)\.(x_proj_weight|dt_projs_weight|dt_projs_bias|A_logs|Ds)$")


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: VMamba's names, and scan parameters, which hold those of both scans one after another.

    Which scan comes first depends on the generation.
    """
    generation: Any = model.generation
    first, second = generation.parameter_sets
    out: StateDict = {}
    for name, value in rename_keys(
        vmamba_to_ours(state_dict, model), ((r"\.se\.fc\.0\.", ".se.fc1."), (r"\.se\.fc\.2\.", ".se.fc2."))
    ).items():
        stacked = _SCAN_PARAMETER.match(name)
        if stacked:
            op, parameter = stacked.groups()
            out[f"{op}.{first}.{parameter}"], out[f"{op}.{second}.{parameter}"] = value.chunk(2)
        else:
            out[name] = value
    return out


def _v1_cfg(drive_folder: str) -> OfficialCfg:
    return imagenet_cfg(
        **PAPER, manual_url=f"https://drive.google.com/drive/folders/{drive_folder}", prefer=("model", "model_ema")
    )


def _v3_cfg(file: str) -> OfficialCfg:
    return imagenet_cfg(**PAPER, hf_hub_id="YuhengSSS/MSVMamba", hf_hub_filename=file, prefer=("model_ema", "model"))


_TEST: dict[str, Any] = {"input_size": (3, 64, 64), "pool_size": (2, 2), "crop_pct": 1.0}
default_cfgs = generate_default_cfgs(
    {
        "msvmamba_nano.authors_in1k": _v1_cfg("1J41w3ApitQhp2O3wHmJoOs4U032uqebK"),
        "msvmamba_micro.authors_in1k": _v1_cfg("1jfl2GmuKcUB8sPwRlyHK_wT0MjqgljYk"),
        "msvmamba_tiny.authors_in1k": _v1_cfg("1ddNWk89ohcxxMuVEaJ2Y5A6xeBKgA7lU"),
        "msvmamba_v3_tiny.authors_in1k": _v3_cfg("msvmambav3_tiny_224.pth"),
        "msvmamba_v3_small.authors_in1k": _v3_cfg("msvmambav3_small_224.pth"),
        "msvmamba_v3_base.authors_in1k": _v3_cfg("msvmambav3_base_224.pth"),
        "msvmamba_nano_test": imagenet_cfg(**PAPER, **_TEST),
        "msvmamba_v3_nano_test": imagenet_cfg(**PAPER, **_TEST),
    }
)

VARIANTS: dict[str, dict[str, Any]] = {
    "msvmamba_nano": {"depths": (1, 2, 5, 2), "dim": 48, "generation": V1},
    "msvmamba_micro": {"depths": (1, 2, 5, 2), "dim": 64, "generation": V1},
    "msvmamba_tiny": {"depths": (1, 2, 9, 2), "dim": 96, "generation": V1},
    "msvmamba_v3_tiny": {"depths": (2, 2, 9, 2), "dim": 96, "generation": V3},
    "msvmamba_v3_small": {"depths": (2, 3, 20, 2), "dim": 96, "generation": V3},
    "msvmamba_v3_base": {"depths": (2, 4, 18, 2), "dim": 128, "generation": V3_GATED},
    "msvmamba_nano_test": {"depths": (1, 1, 1, 1), "dim": 24, "generation": V1},
    "msvmamba_v3_nano_test": {"depths": (1, 1, 1, 1), "dim": 20, "generation": V3_GATED},
}

register_variants(__name__, MSVMamba, VARIANTS, checkpoint_filter_fn)
