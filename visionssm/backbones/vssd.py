"""VSSD (Shi et al. 2024, arXiv 2407.18559): non-causal state-space duality, and attention in the last stage.

All pixels of a map write to one state and all read it. Their order does not matter, so nothing is scanned. The
models are those of the first arXiv version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._conditional_position import HEAD_RENAMES, ConditionalPositionBackbone
from visionssm.backbones._keys import rename_keys
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import non_causal_ssd
from visionssm.layers import MapConv2d
from visionssm.layers.conv import activated
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import linear
from visionssm.layers.ss2d import init_dt_bias_

PAPER = {"paper_name": "VSSD: Vision Mamba with Non-Causal State Space Duality", "paper_ids": "arXiv:2407.18559"}


@leaf_module  # the operator's input checks branch on sizes
class NonCausalSSD(nn.Module):
    """The mixer: projection, depth-wise convolution, non-causal SSD, norm, gate, projection.

    The convolution and its SiLU also see the input and output vectors; the gate is linear, and comes after the norm.

    Args:
        dim: C, channels of the map.
        num_heads: heads, which share the input and output vectors.
        d_state: N.
        expand: D = expand·C channels are mixed.
    """

    def __init__(self, dim: int, *, num_heads: int, d_state: int, expand: int = 2, **factory: Any) -> None:
        super().__init__()
        inner = expand * dim
        if inner % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the {inner} channels that are mixed")
        self.num_heads, self.d_state = num_heads, d_state
        self.sections = [inner, inner + 2 * d_state, num_heads]  # gate; map with input and output vectors; steps
        self.in_proj = nn.Linear(dim, sum(self.sections), bias=False, **factory)
        mixed = self.sections[1]
        self.conv2d = MapConv2d(mixed, mixed, kernel_size=3, padding=1, groups=mixed, **factory)
        self.dt_bias = nn.Parameter(torch.empty(num_heads, **factory))
        self.A_log = nn.Parameter(torch.empty(num_heads, **factory))
        self.D = nn.Parameter(torch.empty(num_heads, **factory))
        self.norm = nn.LayerNorm(inner, **factory)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)
        self.init_ssd()

    @torch.no_grad()
    def init_ssd(self) -> None:
        """The published initialisation: log-uniform steps, A from 1 to 16, D = 1."""
        init_dt_bias_(self.dt_bias)
        self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(1, 16).log())
        self.D.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        z, xbc, dt = linear(self.in_proj, x).split(self.sections, dim=-1)
        xbc = activated(self.conv2d, xbc, F.silu).flatten(1, 2)  # (B, L, D + 2N)
        u, b, c = xbc.split([z.shape[-1], self.d_state, self.d_state], dim=-1)
        m = self.weight(dt.flatten(1, 2))
        y = non_causal_ssd(u.unflatten(-1, (self.num_heads, -1)), m, b, c, d=self.D)
        return linear(self.out_proj, self.normalise(y.flatten(2)).view(z.shape) * z)

    def weight(self, dt: Tensor) -> Tensor:
        """Weight of every pixel in the state, step times decay rate, from the steps before softplus: (B, L, heads)."""
        compute = torch.promote_types(dt.dtype, torch.float32)
        step = F.softplus(dt.to(compute) + self.dt_bias.to(compute))
        return step * torch.exp(self.A_log.to(compute))

    def normalise(self, y: Tensor) -> Tensor:
        """LayerNorm in y's float32, since y may exceed half precision's range; the result is in the weights' dtype."""
        weight, bias = self.norm.weight, self.norm.bias
        y = F.layer_norm(y, self.norm.normalized_shape, weight.to(y.dtype), bias.to(y.dtype), self.norm.eps)
        return y.to(weight.dtype)


class MapAttention(Attention):
    """timm's multi-head attention between all pixels of a channels-last map."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, H, W, C) to the same shape."""
        return super().forward(x.flatten(1, 2)).view(x.shape)


class VSSD(ConditionalPositionBackbone):
    """VSSD classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        num_heads: heads of the mixers of each stage.
        d_state: N, the same in every stage.
        options: the others of `ConditionalPositionBackbone`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 4, 8, 4),
        dim: int = 64,
        num_heads: Sequence[int] = (2, 4, 8, 16),
        d_state: int = 64,
        **options: Any,
    ) -> None:
        *ssd_heads, attention_heads = num_heads
        mixers: list[Callable[..., nn.Module]] = [
            *[partial(NonCausalSSD, num_heads=heads, d_state=d_state) for heads in ssd_heads],
            partial(MapAttention, num_heads=attention_heads),
        ]
        super().__init__(mixers=mixers, depths=depths, dim=dim, **options)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: the mixers and the head."""
    attention = ((r"\.attn\.", ".mixer."), (r"\.to_qkv\.", ".qkv."), (r"\.to_out\.", ".proj."))
    return rename_keys(state_dict, (*attention, *HEAD_RENAMES))


def _cfg(file: str, *, averaged: bool) -> OfficialCfg:
    """`averaged`: the published accuracy is that of the moving average in the file."""
    prefer = ("model_ema", "model") if averaged else None
    hub = {"hf_hub_id": "YuhengSSS/VSSD", "hf_hub_filename": file}
    return imagenet_cfg(**PAPER, first_conv="patch_embed.conv1.conv", prefer=prefer, **hub)


default_cfgs = generate_default_cfgs(
    {
        "vssd_micro.authors_in1k": _cfg("vssd_micro_best.pth", averaged=False),
        "vssd_tiny.authors_in1k": _cfg("vssd_tiny_best_ema.pth", averaged=True),
        "vssd_small.authors_in1k": _cfg("vssd_small_best_ema.pth", averaged=True),
        "vssd_base.authors_in1k": _cfg("vssd_base_best_ema.pth", averaged=True),
        "vssd_tiny.authors_mesa_in1k": _cfg("vssd_tiny_e300_with_mesa.pth", averaged=True),
        "vssd_small.authors_mesa_in1k": _cfg("vssd_small_e300_with_mesa.pth", averaged=True),
        "vssd_base.authors_mesa_in1k": _cfg("vssd_base_e300_with_mesa.pth", averaged=True),
        "vssd_nano_test": imagenet_cfg(
            **PAPER, input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0, first_conv="patch_embed.conv1.conv"
        ),
    }
)

_DEEP = (3, 4, 21, 5)
VARIANTS: dict[str, dict[str, Any]] = {
    "vssd_micro": {"depths": (2, 2, 8, 4), "dim": 48, "num_heads": (2, 4, 8, 16), "d_state": 48},
    "vssd_tiny": {"depths": (2, 4, 8, 4), "dim": 64, "num_heads": (2, 4, 8, 16), "d_state": 64},
    "vssd_small": {"depths": _DEEP, "dim": 64, "num_heads": (2, 4, 8, 16), "d_state": 64},
    "vssd_base": {"depths": _DEEP, "dim": 96, "num_heads": (3, 6, 12, 24), "d_state": 64},
    "vssd_nano_test": {"depths": (1, 1, 1, 1), "dim": 20, "num_heads": (1, 2, 4, 8), "d_state": 16},
}

register_variants(__name__, VSSD, VARIANTS, checkpoint_filter_fn)
