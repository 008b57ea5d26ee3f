"""TTT-Linear: a linear model that is trained along the sequence (arXiv 2407.04620)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.kernels import ttt_linear

MINI_BATCH = 16
ROTATION_BASE = 1e4


def rotated(x: Tensor) -> Tensor:
    """(B, L, H, D) with rotary embeddings: channels 2i and 2i + 1 turn with the place within the mini-batch."""
    half = x.shape[-1] // 2
    rates = ROTATION_BASE ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    place = torch.arange(x.shape[1], device=x.device) % MINI_BATCH
    angle = (place[:, None] * rates)[:, None]  # (L, 1, D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class TTTLinear(nn.Module):
    """Queries, keys, values and learning rates of tokens, and a model per head that learns from them.

    Args:
        dim: C.
        heads: H.
    """

    token_share: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        width = dim // heads
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.learnable_token_idx = nn.Parameter(torch.zeros(MINI_BATCH))
        self.learnable_ttt_lr_weight = nn.Parameter(torch.empty(heads, 1, dim).normal_(std=0.02))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(heads, width))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(heads, width))
        self.W1 = nn.Parameter(torch.empty(heads, width, width).normal_(std=0.02))
        self.b1 = nn.Parameter(torch.zeros(heads, 1, width))
        self.post_norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("token_share", 1 / torch.arange(1, MINI_BATCH + 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        rate = torch.sigmoid(x @ self.learnable_ttt_lr_weight[:, 0].T + self.learnable_ttt_lr_bias[:, 0])
        y = ttt_linear(
            rotated(q),
            rotated(k),
            v,
            rate / q.shape[-1],
            (self.token_share + self.learnable_token_idx).clamp(min=0),
            self.W1,
            self.b1[:, 0],
            self.ttt_norm_weight,
            self.ttt_norm_bias,
        )
        return self.o_proj(self.post_norm(y.flatten(2)))


class SwiGLU(nn.Module):
    """A gated network."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TTTOperator(nn.Module):
    """TTT-Linear and a gated network, each of the normalised input and beside it; forwards only.

    Args:
        dim: C.
        drop_path: share of the groups that skip the first part while training.
        number, total: not needed.
        heads: H; None for 4.
    """

    def __init__(
        self, dim: int, *, drop_path: float = 0.0, number: int = 0, total: int = 1, heads: int | None = None
    ) -> None:
        super().__init__()
        self.seq_norm = nn.RMSNorm(dim, eps=1e-6)
        self.seq_modeling_block = TTTLinear(dim, heads or 4)
        self.ffn_norm = nn.RMSNorm(dim, eps=1e-6)
        self.mlp = SwiGLU(dim, 2 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        x = x + self.drop_path(self.seq_modeling_block(self.seq_norm(x)))
        return x + self.mlp(self.ffn_norm(x))
