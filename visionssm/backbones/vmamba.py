"""VMamba (Liu et al. 2024, arXiv 2401.10166): four stages of SS2D blocks, both published generations.

The first generation ("v0") has a gate in the mixer, state size 16, no MLP, a non-overlapping stem and patch merging.
The later one has no gate, state size 1, an MLP in every block, an overlapping stem and strided convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._keys import vmamba_to_ours
from visionssm.backbones._stages import StagedBackbone, doubled
from visionssm.checkpoints import OfficialCfg
from visionssm.layers import (
    SS2D,
    GatedSS2D,
    OverlappingStem,
    PatchMerging,
    PatchStem,
    StridedConvDownsample,
)
from visionssm.layers.linear import Mlp

PAPER = {"paper_name": "VMamba: Visual State Space Model", "paper_ids": "arXiv:2401.10166"}


@dataclass(frozen=True)
class Generation:
    """The modules in which the two published generations differ."""

    stem: type[nn.Module]
    mixer: type[SS2D]
    downsample: type[nn.Module]
    conv_bias: bool
    mlp_ratio: float  # 0: no MLP


V0 = Generation(stem=PatchStem, mixer=GatedSS2D, downsample=PatchMerging, conv_bias=True, mlp_ratio=0.0)
V05 = Generation(stem=OverlappingStem, mixer=SS2D, downsample=StridedConvDownsample, conv_bias=False, mlp_ratio=4.0)


class VMambaBlock(nn.Module):
    """x + SS2D(LN(x)), then x + MLP(LN(x)) where the generation has an MLP."""

    def __init__(
        self,
        dim: int,
        generation: Generation,
        *,
        ssm_ratio: float,
        d_state: int,
        drop_path: float,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.op = generation.mixer(dim, ssm_ratio=ssm_ratio, d_state=d_state, conv_bias=generation.conv_bias, **factory)
        self.drop_path = DropPath(drop_path)
        self.norm2 = self.mlp = None
        if generation.mlp_ratio:
            self.norm2 = nn.LayerNorm(dim, **factory)
            self.mlp = Mlp(dim, int(generation.mlp_ratio * dim), **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.mlp is not None and self.norm2 is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class VMamba(StagedBackbone):
    """VMamba classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        ssm_ratio: scanned channels over stage channels.
        d_state: N, states per channel.
        generation: `V0` or `V05`.
        options: the others of `StagedBackbone`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 8, 2),
        dim: int = 96,
        ssm_ratio: float = 1.0,
        d_state: int = 1,
        generation: Generation = V05,
        **options: Any,
    ) -> None:
        block = partial(VMambaBlock, generation=generation, ssm_ratio=ssm_ratio, d_state=d_state)
        super().__init__(
            stem=generation.stem,
            dims=doubled(dim, len(depths)),
            depths=depths,
            blocks=[block] * len(depths),
            downsample=generation.downsample,
            **options,
        )

    def no_weight_decay(self) -> set[str]:
        """A_logs and Ds; biases and norms are 1-D and not decayed either."""
        return {"*.A_logs", "*.Ds"}


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: the names of older files, the head, and projections stored as 1×1 convolutions."""
    return vmamba_to_ours(state_dict, model)


_RELEASES = "https://github.com/MzeroMiko/VMamba/releases/download"


def _v05_url(file: str) -> OfficialCfg:
    return imagenet_cfg(**PAPER, url=f"{_RELEASES}/%23v2cls/{file}")


def _v0_url(file: str) -> OfficialCfg:
    return imagenet_cfg(**PAPER, url=f"{_RELEASES}/%23v0cls/{file}")


default_cfgs = generate_default_cfgs(
    {
        "vmamba_tiny_s1l8.authors_in1k": _v05_url("vssm1_tiny_0230s_ckpt_epoch_264.pth"),
        "vmamba_tiny_s2l5.authors_in1k": _v05_url("vssm_tiny_0230_ckpt_epoch_262.pth"),
        "vmamba_small_s2l15.authors_in1k": _v05_url("vssm_small_0229_ckpt_epoch_222.pth"),
        "vmamba_small_s1l20.authors_in1k": _v05_url("vssm1_small_0229s_ckpt_epoch_240.pth"),
        "vmamba_base_s2l15.authors_in1k": _v05_url("vssm_base_0229_ckpt_epoch_237.pth"),
        "vmamba_base_s1l20.authors_in1k": _v05_url("vssm1_base_0229s_ckpt_epoch_225.pth"),
        "vmamba_v0_tiny.authors_in1k": _v0_url("vssmtiny_dp01_ckpt_epoch_292.pth"),
        "vmamba_v0_small.authors_in1k": _v0_url("vssmsmall_dp03_ckpt_epoch_238.pth"),
        "vmamba_v0_base.authors_in1k": _v0_url("vssmbase_dp06_ckpt_epoch_241.pth"),
        "vmamba_nano_test": imagenet_cfg(**PAPER, input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)

_V0 = {"generation": V0, "ssm_ratio": 2.0, "d_state": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "vmamba_tiny_s1l8": {"depths": (2, 2, 8, 2), "dim": 96, "ssm_ratio": 1.0},
    "vmamba_tiny_s2l5": {"depths": (2, 2, 5, 2), "dim": 96, "ssm_ratio": 2.0},
    "vmamba_small_s2l15": {"depths": (2, 2, 15, 2), "dim": 96, "ssm_ratio": 2.0},
    "vmamba_small_s1l20": {"depths": (2, 2, 20, 2), "dim": 96, "ssm_ratio": 1.0},
    "vmamba_base_s2l15": {"depths": (2, 2, 15, 2), "dim": 128, "ssm_ratio": 2.0},
    "vmamba_base_s1l20": {"depths": (2, 2, 20, 2), "dim": 128, "ssm_ratio": 1.0},
    "vmamba_v0_tiny": {"depths": (2, 2, 9, 2), "dim": 96, **_V0},
    "vmamba_v0_small": {"depths": (2, 2, 27, 2), "dim": 96, **_V0},
    "vmamba_v0_base": {"depths": (2, 2, 27, 2), "dim": 128, **_V0},
    "vmamba_nano_test": {"depths": (1, 1, 1, 1), "dim": 24},
}

register_variants(__name__, VMamba, VARIANTS, checkpoint_filter_fn)
