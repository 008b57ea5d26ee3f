"""Spatial-Mamba (Xiao et al. 2024, arXiv 2410.15091): one scan, whose states neighbours share before the read-out.

The states of a single raster scan are fused over the map by dilated depth-wise convolutions; only then are they
multiplied by the output vectors. So each pixel reads states from all sides although the scan goes one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._conditional_position import HEAD_RENAMES, ConditionalPositionBackbone
from visionssm.backbones._keys import rename_keys
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import LowRank, routes, scan_states
from visionssm.kernels.state_fusion import DILATIONS, TAPS, state_fusion
from visionssm.layers import MapConv2d, RouteScan
from visionssm.layers.conv import activated
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import linear
from visionssm.layers.ss2d import default_dt_rank

PAPER = {
    "paper_name": "Spatial-Mamba: Effective Visual State Space Models via Structure-aware State Fusion",
    "paper_ids": "arXiv:2410.15091",
}


class StateFusion(nn.Module):
    """Weighted sum of three depth-wise 3×3 convolutions with dilations 1, 3 and 5, over a map with repeated borders.

    Args:
        dim: D, channels of the state map.
    """

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.kernel_3 = nn.Parameter(torch.ones(dim, 1, 3, 3, **factory))
        self.kernel_3_1 = nn.Parameter(torch.ones(dim, 1, 3, 3, **factory))
        self.kernel_3_2 = nn.Parameter(torch.ones(dim, 1, 3, 3, **factory))
        self.alpha = nn.Parameter(torch.ones(len(DILATIONS), **factory))

    def forward(self, h: Tensor) -> Tensor:
        """(B, H, W, D) to the same shape."""
        kernels = torch.stack([self.kernel_3, self.kernel_3_1, self.kernel_3_2]) * self.alpha.view(-1, 1, 1, 1, 1)
        return state_fusion(h, kernels.flatten(1).unflatten(1, (-1, TAPS)).mT)


@leaf_module  # the scan's input checks branch on sizes
class StructureAwareSSM(RouteScan):
    """The mixer: projection, depth-wise convolution, scan, fusion of states, read-out, norm, gate, projection.

    The scan has one state per channel.

    Args:
        dim: C, channels of the map.
        expand: D = expand·C channels are scanned.
    """

    def __init__(self, dim: int, *, expand: int = 2, **factory: Any) -> None:
        inner = expand * dim
        super().__init__(inner, d_state=1, dt_rank=default_dt_rank(dim), n_routes=1, **factory)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **factory)
        self.conv2d = MapConv2d(inner, inner, kernel_size=3, padding=1, groups=inner, **factory)
        self.state_fusion = StateFusion(inner, **factory)
        self.out_norm = nn.LayerNorm(inner, **factory)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = linear(self.in_proj, x).chunk(2, dim=-1)
        u = activated(self.conv2d, x, F.silu)  # (B, H, W, D)
        states, c = self.states(u)
        y = torch.addcmul(self.state_fusion(states) * c, u, self.Ds)
        return linear(self.out_proj, self.out_norm(y) * F.silu(z))

    def states(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """State of every pixel and channel after a raster scan, (B, H, W, D), and the output vectors (B, H, W, 1)."""
        batch, height, width, _ = u.shape
        dt, b, c = self.project(u.flatten(1, 2)).split([self.dt_rank, 1, 1], dim=-1)  # (B, L, 1, ·)
        h = scan_states(
            u.flatten(1, 2),
            LowRank(dt, self.dt_projs_weight.transpose(1, 2)),
            -torch.exp(self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32)))[None],
            b,
            dt_bias=self.dt_projs_bias,
            order=routes.raster(height, width, device=u.device),
        )  # (B, 1, L, D, 1)
        return h.view(u.shape), c.view(batch, height, width, 1)


class SpatialMamba(ConditionalPositionBackbone):
    """Spatial-Mamba classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        options: the others of `ConditionalPositionBackbone`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 4, 8, 4),
        dim: int = 64,
        **options: Any,
    ) -> None:
        mixers = [StructureAwareSSM] * len(depths)
        super().__init__(mixers=mixers, depths=depths, dim=dim, **options)

    def no_weight_decay(self) -> set[str]:
        """The step biases, which have a dimension for the route here; A_logs is decayed, unlike in other families."""
        return {"*.dt_projs_bias"}


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: the norms, the mixers and the head; parameters of the scan get a route dimension."""
    block = ((r"\.ln_([12])\.", r".norm\1."), (r"\.self_attention\.", ".mixer."))
    out = rename_keys(state_dict, (*block, *HEAD_RENAMES))
    dimensions = {"x_proj_weight": 3, "dt_projs_weight": 3, "dt_projs_bias": 2}
    for name, value in out.items():
        if value.ndim == dimensions.get(name.rsplit(".", 1)[-1], 0) - 1:
            out[name] = value[None]
    return out


def _cfg(file_id: str) -> OfficialCfg:
    """A checkpoint on Google Drive, which only a person can download."""
    url = f"https://drive.google.com/file/d/{file_id}/view?usp=drive_link"
    return imagenet_cfg(**PAPER, first_conv="patch_embed.conv1.conv", manual_url=url)


default_cfgs = generate_default_cfgs(
    {
        "spatialmamba_tiny.authors_in1k": _cfg("19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW"),
        "spatialmamba_small.authors_in1k": _cfg("1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O"),
        "spatialmamba_base.authors_in1k": _cfg("1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM"),
        "spatialmamba_nano_test": imagenet_cfg(
            **PAPER, input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0, first_conv="patch_embed.conv1.conv"
        ),
    }
)

_DEEP = (2, 4, 21, 5)
VARIANTS: dict[str, dict[str, Any]] = {
    "spatialmamba_tiny": {"depths": (2, 4, 8, 4), "dim": 64},
    "spatialmamba_small": {"depths": _DEEP, "dim": 64},
    "spatialmamba_base": {"depths": _DEEP, "dim": 96},
    "spatialmamba_nano_test": {"depths": (1, 1, 1, 1), "dim": 20},
}

register_variants(__name__, SpatialMamba, VARIANTS, checkpoint_filter_fn)
