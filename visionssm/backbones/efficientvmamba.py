"""EfficientVMamba (Pei et al. 2024, arXiv 2403.09977): atrous scans at high resolution, convolutions below.

Stages 1 and 2 add two views of the normalised map: an SS2D whose four routes each visit another (row, column) phase
of the pixels, and a depth-wise convolution. One gate, with one set of weights, weighs the channels of both. Stages 3
and 4 are inverted residuals with squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._keys import rename_keys, vmamba_to_ours
from visionssm.backbones._stages import StagedBackbone, doubled
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import routes
from visionssm.layers import GatedSS2D, PatchMerging, PatchStem
from visionssm.layers.cells import into_cells, out_of_cells
from visionssm.layers.conv import activated

PAPER = {
    "paper_name": "EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba",
    "paper_ids": "arXiv:2403.09977",
}

STEP = 2  # pixels between neighbours on a route


class AtrousSS2D(GatedSS2D):
    """Gated SS2D whose routes share no pixel: route k scans one of the STEP² phases of the map with its parameters.

    Where the map does not divide into STEP×STEP cells, it is filled up with zeros. The routes visit them too, and the
    state decays there (`routes.atrous`).
    """

    def project_phases(self, u: Tensor) -> Tensor:
        """dt, B and C of every pixel with the parameters of the one route that visits it.

        (B, H, W, D) to (B, L, K, R + 2N), the same for all K.
        """
        _, height, width, _ = u.shape
        weight = self.x_proj_weight.unflatten(0, (STEP, STEP))  # routes are numbered row phase first
        projected = torch.einsum("byixjd,jied->byixje", into_cells(u, STEP), weight)
        projected = out_of_cells(projected, height, width).flatten(1, 2)
        return projected[:, :, None].expand(-1, -1, self.n_routes, -1)

    def scan(self, u: Tensor, order: Tensor) -> Tensor:
        """Scan (B, H, W, D) along `order` (K, 1, T); every pixel gets the result of its route."""
        y, _ = self.scan_pixels(u.flatten(1, 2), self.project_phases(u), order)
        return y.view(u.shape)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve, scan phase by phase and normalise a (B, H, W, D) map."""
        u = activated(self.conv2d, x, self.activation)
        return self.out_norm(self.scan(u, routes.atrous(u.shape[1], u.shape[2], STEP, device=u.device)))


class ChannelGate(nn.Module):
    """v·σ(W₂ GELU(W₁ q)) with q the mean of LN(v) over the map: squeeze-and-excitation that ignores v's scale."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.global_reduce = nn.Linear(dim, dim // 8, **factory)
        self.channel_select = nn.Linear(dim // 8, dim, **factory)

    def forward(self, v: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        q = self.norm(v).mean((1, 2), keepdim=True)
        return v * torch.sigmoid(self.channel_select(F.gelu(self.global_reduce(q))))


class ConvBranch(nn.Sequential):
    """Depth-wise 3×3 convolution, BatchNorm, GELU, 1×1 convolution of a channels-last map."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory),
            nn.BatchNorm2d(dim, **factory),
            nn.GELU(),
            nn.Conv2d(dim, dim, kernel_size=1, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class AtrousBlock(nn.Module):
    """x + G(SS2D(n)) + G(conv(n)) with n = LN(x) and one gate G."""

    def __init__(self, dim: int, *, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.op = AtrousSS2D(dim, ssm_ratio=2.0, d_state=16, conv_bias=True, **factory)
        self.conv_branch = ConvBranch(dim, **factory)
        self.se = ChannelGate(dim, **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        n = self.norm(x)
        return x + self.drop_path(self.se(self.op(n)) + self.se(self.conv_branch(n)))


class InvertedResidualBlock(InvertedResidual):
    """timm's inverted residual of a channels-last map: C to 4C, depth-wise 3×3, squeeze-excite of C/2, back to C."""

    def __init__(self, dim: int, *, drop_path: float, **factory: Any) -> None:
        squeeze_excite: Any = partial(SqueezeExcite, rd_ratio=1 / 8)
        super().__init__(dim, dim, exp_ratio=4.0, se_layer=squeeze_excite, drop_path_rate=drop_path, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


STAGE_BLOCKS = (AtrousBlock, AtrousBlock, InvertedResidualBlock, InvertedResidualBlock)


class EfficientVMamba(StagedBackbone):
    """EfficientVMamba classifier and feature extractor, any input size.

    Args:
        depths: blocks in each of the four stages.
        dim: channels of the first stage, doubled at each of the next.
        options: the others of `StagedBackbone`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 4, 2),
        dim: int = 48,
        **options: Any,
    ) -> None:
        super().__init__(
            stem=PatchStem,
            dims=doubled(dim, len(STAGE_BLOCKS)),
            depths=depths,
            blocks=STAGE_BLOCKS,
            downsample=PatchMerging,
            **options,
        )


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: VMamba's names, and stages 3 and 4, flat sequences whose first entry is a permute."""
    return rename_keys(
        vmamba_to_ours(state_dict, model),
        (
            (r"^layers\.(\d+)\.\d+\.(norm|reduction)\.", r"layers.\1.downsample.\2."),
            (r"^layers\.(\d+)\.(\d+)\.", lambda match: f"layers.{match[1]}.blocks.{int(match[2]) - 1}."),
            (r"\.conv_pw\.0\.", ".conv_pw."),
            (r"\.conv_pw\.1\.", ".bn1."),
            (r"\.conv_dw\.0\.", ".conv_dw."),
            (r"\.conv_dw\.1\.", ".bn2."),
            (r"\.conv_pw2\.0\.", ".conv_pwl."),
            (r"\.conv_pw2\.1\.", ".bn3."),
        ),
    )


def _hub_cfg(size: str, *wrapper_keys: str) -> OfficialCfg:
    return imagenet_cfg(
        **PAPER,
        hf_hub_id=f"TerryPei/EfficientVMamba-{size.capitalize()}",
        hf_hub_filename=f"efficient_vmamba_{size}.ckpt",
        prefer=wrapper_keys,
    )


# The published accuracies are of the raw weights, but base's is of their moving average.
default_cfgs = generate_default_cfgs(
    {
        "efficientvmamba_tiny.authors_in1k": _hub_cfg("tiny", "state_dict", "model", "ema_model"),
        "efficientvmamba_small.authors_in1k": _hub_cfg("small", "state_dict", "model", "ema_model"),
        "efficientvmamba_base.authors_in1k": _hub_cfg("base", "state_dict", "ema_model", "model"),
        "efficientvmamba_nano_test": imagenet_cfg(**PAPER, input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)

VARIANTS: dict[str, dict[str, Any]] = {
    "efficientvmamba_tiny": {"depths": (2, 2, 4, 2), "dim": 48},
    "efficientvmamba_small": {"depths": (2, 2, 4, 2), "dim": 64},
    "efficientvmamba_base": {"depths": (2, 2, 9, 2), "dim": 96},
    "efficientvmamba_nano_test": {"depths": (1, 1, 1, 1), "dim": 24},
}

register_variants(__name__, EfficientVMamba, VARIANTS, checkpoint_filter_fn)
