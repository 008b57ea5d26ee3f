"""RWKV-6 in both directions (arXiv 2404.05892)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.kernels import gated_linear_attention

MIX_RANK, DECAY_RANK = 32, 64
_MIXED = ("w", "k", "v", "r", "g")


def shifted(x: Tensor) -> Tensor:
    """(B, L, C) difference of every token from the one before it; the first comes after zeros."""
    return F.pad(x, (0, 0, 1, -1)) - x


class TimeMix(nn.Module):
    """Linear attention of tokens on both sides, with decays that depend on the tokens.

    Args:
        dim: C.
        heads: H.
        number, total: place in the network, from 0, and how many there are; starting values depend on it.
    """

    time_maa_x: Tensor

    def __init__(self, dim: int, heads: int, number: int, total: int) -> None:
        super().__init__()
        depth = number / max(1, total - 1)
        remaining = 1 - number / total
        channel = torch.arange(dim) / dim
        self.heads = heads
        mixes = {
            "x": 1 - channel**remaining,
            "w": 1 - channel**remaining,
            "k": 1 - channel**remaining,
            "v": 1 - (channel**remaining + 0.3 * depth),
            "r": 1 - channel ** (0.5 * remaining),
            "g": 1 - channel ** (0.5 * remaining),
        }
        for name, start in mixes.items():
            self.register_parameter(f"time_maa_{name}", nn.Parameter(start.view(1, 1, dim).clone()))
        self.time_maa_w1 = nn.Parameter(torch.empty(dim, len(_MIXED) * MIX_RANK).uniform_(-1e-4, 1e-4))
        self.time_maa_w2 = nn.Parameter(torch.empty(len(_MIXED), MIX_RANK, dim).uniform_(-1e-4, 1e-4))
        place = torch.arange(dim) / max(1, dim - 1)
        self.time_decay = nn.Parameter((-6 + 5 * place ** (0.7 + 1.3 * depth)).view(1, 1, dim))
        self.time_decay_w1 = nn.Parameter(torch.empty(dim, DECAY_RANK).uniform_(-1e-4, 1e-4))
        self.time_decay_w2 = nn.Parameter(torch.empty(DECAY_RANK, dim).uniform_(-1e-4, 1e-4))
        zigzag = ((torch.arange(dim) + 1) % 3 - 1) * 0.1
        self.time_faaaa = nn.Parameter((depth * (1 - place) + zigzag).view(heads, -1))
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(dim, dim, bias=False)
        self.ln_x = nn.GroupNorm(heads, dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        offset = shifted(x)
        low = torch.tanh(torch.addcmul(x, offset, self.time_maa_x) @ self.time_maa_w1)
        low = low.unflatten(-1, (len(_MIXED), MIX_RANK)).flatten(0, 1).transpose(0, 1)  # (mixes, B·L, rank)
        fixed = torch.cat([self.get_parameter(f"time_maa_{name}") for name in _MIXED])
        shares = torch.baddbmm(fixed, low, self.time_maa_w2).unflatten(1, x.shape[:2])
        w, k, v, r, g = torch.addcmul(x, offset, shares)
        decay = -torch.exp((self.time_decay + torch.tanh(w @ self.time_decay_w1) @ self.time_decay_w2).float())
        q, keys, values, rates = (
            y.unflatten(-1, (self.heads, -1)) for y in (self.receptance(r), self.key(k), self.value(v), decay)
        )
        rates = rates.to(torch.promote_types(x.dtype, torch.float32))
        before = gated_linear_attention(q, keys, values, rates, self.time_faaaa)
        behind = gated_linear_attention(q, keys, values, rates, reverse=True)
        y = self.ln_x((before + behind).flatten(2).flatten(0, 1)).view_as(x)
        return self.output(y * F.silu(self.gate(g)))


class ChannelMix(nn.Module):
    """A gated network of a token and the one before it.

    Args:
        dim: C.
        hidden: width inside.
        number, total: as of `TimeMix`.
    """

    def __init__(self, dim: int, hidden: int, number: int, total: int) -> None:
        super().__init__()
        start = (torch.arange(dim) / dim) ** (1 - number / total)
        self.spatial_mix_k = nn.Parameter(start.view(1, 1, dim).clone())
        self.spatial_mix_r = nn.Parameter(start.view(1, 1, dim).clone())
        self.key = nn.Linear(dim, hidden, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        offset = shifted(x)
        k, r = torch.lerp(offset, x, self.spatial_mix_k), torch.lerp(offset, x, self.spatial_mix_r)
        return torch.sigmoid(self.receptance(r)) * self.value(F.relu(self.key(k)).square())


class RWKVOperator(nn.Module):
    """Both mixes of the normalised input, each scaled and beside it.

    Args:
        dim: C.
        drop_path: share of the groups that skip a part while training.
        number, total: place in the network, from 0, and how many there are; the first one normalises its input.
        heads: H; None for 4.
    """

    def __init__(
        self, dim: int, *, drop_path: float = 0.0, number: int = 0, total: int = 1, heads: int | None = None
    ) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(dim) if number == 0 else nn.Identity()
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)
        self.att = TimeMix(dim, heads or 4, number, total)
        self.ffn = ChannelMix(dim, 4 * dim, number, total)
        self.gamma1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.gamma2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        x = self.ln0(x)
        x = x + self.drop_path(self.gamma1 * self.att(self.ln1(x)))
        return x + self.drop_path(self.gamma2 * self.ffn(self.ln2(x)))
