"""The matrix memory of xLSTM (arXiv 2405.04517) in blocks of Vision-LSTM (arXiv 2406.04303), once in each direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.kernels import ssd

HEADS = 4
BLOCK = 4
"""Channels that the projections of queries, keys and values mix."""


class BlockLinear(nn.Module):
    """Linear maps of neighbouring channels, `BLOCK` at a time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // BLOCK, BLOCK, BLOCK).normal_(std=(2 / (5 * BLOCK)) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same shape."""
        blocks = x.unflatten(-1, (-1, BLOCK))
        return torch.einsum("blnd,nod->blno", blocks, self.weight).flatten(-2) + self.bias


class CausalConv(nn.Module):
    """Depth-wise convolution of a token and those before it.

    Args:
        dim: channels.
        width: tokens under the convolution.
    """

    def __init__(self, dim: int, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, width, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) to the same shape."""
        return self.conv(F.pad(x.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))).transpose(1, 2)


class ShiftedLayerNorm(nn.Module):
    """Layer norm whose weights start at zero and count from one.

    Args:
        dim: channels.
        groups: that are normalised by themselves.
        bias: whether there is one.
    """

    def __init__(self, dim: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) to the same shape."""
        y = x.unflatten(-1, (self.groups, -1))
        return F.layer_norm(y, y.shape[-1:], eps=1e-5).flatten(-2) * (1 + self.weight) + self.bias


def running_maximum(x: Tensor) -> Tensor:
    """Along the second axis, of (B, L, …): at every place the largest value up to it.

    In exported graphs by maxima of pairs that lie 1, 2, 4, … apart: PyTorch's `cummax` asks whether there are any
    values, which is not known where the number of groups is open.
    """
    if not torch.compiler.is_exporting():
        return x.cummax(1).values
    step = 1
    while step < x.shape[1]:
        x = torch.cat([x[:, :step], torch.maximum(x[:, step:], x[:, :-step])], 1)
        step *= 2
    return x


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """The cell in parallel: h_t = Σ_j S_tj v_j / (max(|Σ_j S_tj|, exp(−m_t)) + 1e-6).

    S_tj = q_t·k_j/√d · exp(D_tj − m_t), D_tj = Σ_{j<l≤t} log σ(f_l) + i_j for j ≤ t, m_t = max_j D_tj. As
    D_tj = F_t − F_j + i_j with F the running sum, the maximum is F_t plus that of i − F up to t: so decays from step
    to step, and what a step adds, are at most one, and the sums are those of `ssd`, the normaliser as one more channel.

    Args:
        q, k, v: (B, L, H, D).
        i, f: (B, L, H) gates before their functions.
    Returns:
        (B, L, H, D).
    """
    dtype = q.dtype
    compute = torch.promote_types(dtype, torch.float32)
    i, f = i.double(), f.double()  # differences of running sums; a number per head and token
    total = F.logsigmoid(f).cumsum(1)
    ahead = i - total
    highest = running_maximum(ahead)  # m_t − F_t
    before = torch.cat([highest[:, :1], highest[:, :-1]], 1)
    values = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    y = ssd(
        values.to(compute),
        (ahead - highest).exp().to(compute),
        None,
        k.to(compute),
        q.to(compute) / q.shape[-1] ** 0.5,
        log_decay=(before - highest).to(compute),
    )
    assert isinstance(y, Tensor)
    numerator, normaliser = y[..., :-1], y[..., -1:]
    least = torch.exp(-(total + highest))[..., None].to(compute)
    return (numerator / (torch.maximum(normaliser.abs(), least) + 1e-6)).to(dtype)


class Cell(nn.Module):
    """Gates of queries, keys and values, the memory, and a norm of every head.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.igate = nn.Linear(3 * dim, HEADS)
        self.fgate = nn.Linear(3 * dim, HEADS)
        self.outnorm = ShiftedLayerNorm(dim, HEADS)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, HEADS))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, L, dim) each, to the same shape."""
        gates = torch.cat([q, k, v], -1)
        q, k, v = (x.unflatten(-1, (HEADS, -1)) for x in (q, k, v))
        return self.outnorm(mlstm(q, k, v, self.igate(gates), self.fgate(gates)).flatten(2))


class Layer(nn.Module):
    """The cell between projections, with a convolution before it and a gate beside it.

    Args:
        dim: C; inside it is twice as wide.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = 2 * dim
        self.proj_up = nn.Linear(dim, 2 * inner)
        self.q_proj, self.k_proj, self.v_proj = BlockLinear(inner), BlockLinear(inner), BlockLinear(inner)
        self.conv = CausalConv(inner)
        self.mlstm_cell = Cell(inner)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        x, z = self.proj_up(x).chunk(2, -1)
        active = F.silu(self.conv(x))
        y = self.mlstm_cell(self.q_proj(active), self.k_proj(active), self.v_proj(x))
        return self.proj_down((y + self.learnable_skip * active) * F.silu(z))


class Block(nn.Module):
    """The layer of the normalised input, beside it.

    Args:
        dim: C.
        drop_path: share of the groups that skip it while training.
    """

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = ShiftedLayerNorm(dim)
        self.layer = Layer(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to the same shape."""
        return x + self.drop_path(self.layer(self.norm(x)))


class XLSTMOperator(nn.Module):
    """A block from the first token to the last, and one from the last to the first.

    Args:
        dim: C.
        drop_path: share of the groups that skip a block while training.
        number, total: not needed.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, number: int = 0, total: int = 1) -> None:
        super().__init__()
        self.rowwise_from_top_left = Block(dim, drop_path)
        self.rowwise_from_bot_right = Block(dim, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        return self.rowwise_from_bot_right(self.rowwise_from_top_left(x).flip(1)).flip(1)
