"""Retention over chunks, as LION uses RetNet (arXiv 2307.08621): within a chunk in both directions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.kernels import ssd

CHUNK = 64
"""Tokens that see each other in both directions."""


class MultiScaleRetention(nn.Module):
    """Linear attention whose heads forget at rates of their own.

    Token i sees token j of an earlier chunk, or of its own chunk before or behind it, with the weight
    q_i·k_j γ^|i − j| / √d; no token of a later chunk.

    Args:
        dim: C, width of queries and keys; values are twice as wide.
        heads: H; head h forgets by γ = 1 − 2^(−5 − h).
    """

    decay: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.o_proj = nn.Linear(2 * dim, dim, bias=False)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-2.5)
        rates = torch.log1p(-(2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))))
        self.register_buffer("decay", rates.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q = q / math.sqrt(q.shape[-1])
        steps = q.new_ones(q.shape[:3])
        past = ssd(v, steps, self.decay.to(q.dtype), k, q)
        assert isinstance(past, Tensor)
        return self.o_proj((past + self._behind(q, k, v)).flatten(2))

    def _behind(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, L, H, P) of what tokens get from those behind them in their chunk."""
        length = q.shape[1]
        q, k, v = (self._chunks(x) for x in (q, k, v))  # (B, H, chunks, CHUNK, …)
        place = torch.arange(q.shape[3], device=q.device)
        distance = place - place[:, None]  # from token i to token j
        weight = (self.decay.to(q.dtype)[:, None, None] * distance.clamp(min=0)).exp() * (distance > 0)
        y = (q @ k.transpose(-1, -2) * weight[:, None]) @ v
        return y.flatten(2, 3)[:, :, :length].transpose(1, 2)

    @staticmethod
    def _chunks(x: Tensor) -> Tensor:
        size = min(CHUNK, x.shape[1])
        padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
        return padded.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


class FeedForward(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class RetNetOperator(nn.Module):
    """Retention and a feed-forward network, each of the normalised input and beside it.

    Args:
        dim: C.
        drop_path: share of the groups that skip a part while training.
        number, total: not needed.
        heads: H; None for one per 32 channels.
    """

    def __init__(
        self, dim: int, *, drop_path: float = 0.0, number: int = 0, total: int = 1, heads: int | None = None
    ) -> None:
        super().__init__()
        self.retention_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.multi_scale_retention = MultiScaleRetention(dim, heads or max(1, dim // 32))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = FeedForward(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        x = x + self.drop_path(self.multi_scale_retention(self.retention_layer_norm(x)))
        return x + self.drop_path(self.ffn(self.final_layer_norm(x)))
