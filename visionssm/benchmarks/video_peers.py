"""Next-frame predictors beside ConvS5: ConvLSTM (Shi et al. 2015, arXiv 1506.04214) and a causal Transformer.

Both have ConvS5's encoder and decoder of frames; only what mixes the frames over time differs.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.backbones.convs5.model import ConvS5Config, FrameDecoder, FrameEncoder
from visionssm.layers.conv import MapConv2d


class ConvLSTM(nn.Module):
    """A layer of ConvLSTM on maps; what it takes from the input is convolved for all frames at once.

    Args:
        dim: channels of input and output.
        hidden: channels of the state.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = MapConv2d(dim, 4 * hidden, 3, padding=1)
        self.from_state = MapConv2d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, T, H, W, D) and the state before it, or None, to outputs and the last state."""
        given = self.from_input(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if state is None:
            state = (x.new_zeros(*given[:, 0].shape[:-1], self.hidden),) * 2
        outputs = []
        for gates in given.unbind(1):
            state = self._advance(gates, *state)
            outputs.append(state[0])
        return x + self.out(torch.stack(outputs, 1)), state

    def _advance(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        into, keep, out, new = (gates + self.from_state(hidden)).chunk(4, -1)
        cell = keep.sigmoid() * cell + into.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


class FrameAttention(nn.Module):
    """A Transformer block whose pixels attend to all pixels of their own and all earlier frames.

    Args:
        dim: channels.
        hidden: of the MLP.
        heads: of the attention.
    """

    def __init__(self, dim: int, hidden: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, T, H, W, D), and keys and values of the frames before it, or None, to outputs and all keys and values."""
        pixels, frames = x.shape[2] * x.shape[3], x.shape[1]
        tokens = x.flatten(1, 3)
        parts = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)  # (B, heads, T·H·W, D / heads)
        if state is not None:
            k, v = (torch.cat([before, now], 2) for before, now in zip(state, (k, v)))
        number = torch.arange(frames, device=x.device).repeat_interleave(pixels)
        mask = None if frames == 1 else number[:, None] >= number
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        tokens = tokens + self.proj(y.transpose(1, 2).flatten(2))
        return (tokens + self.mlp(self.norm2(tokens))).view(x.shape), (k, v)


class FramePredictor(nn.Module):
    """ConvS5's encoder and decoder around other layers.

    Args:
        config: sizes, of which `states` is for ConvS5 alone.
        kind: `ConvLSTM` or `FrameAttention`.
        hidden: its second argument.
    """

    def __init__(self, config: ConvS5Config, kind: type[ConvLSTM | FrameAttention], hidden: int) -> None:
        super().__init__()
        self.encoder = FrameEncoder(config.channels, config.widths, config.groups)
        self.into = nn.Linear(config.widths[-1], config.dim)
        self.layers = nn.ModuleList(kind(config.dim, hidden) for _ in range(config.depth))
        self.decoder = FrameDecoder(config.dim, config.channels, config.widths, config.groups)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, H, W, channels) to predictions of frames 1 … T − 1."""
        return self.advance(video[:, :-1], [None] * len(self.layers))[0]

    def advance(self, frames: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        """(B, T, H, W, channels) and the layers' states before them to predictions of the next ones, and the states."""
        x = self.into(self.encoder(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, state)
            after.append(state)
        return self.decoder(x.flatten(0, 1)).unflatten(0, frames.shape[:2]), after


def as_large_as(parameters: int, config: ConvS5Config, kind: type[ConvLSTM | FrameAttention]) -> FramePredictor:
    """The predictor whose `hidden`, a multiple of 4, makes it nearest to so many parameters."""

    def count(hidden: int) -> int:
        with torch.device("meta"):
            return parameters_of(FramePredictor(config, kind, hidden))

    widths = range(4, 16 * config.dim, 4)
    place = bisect_left(widths, parameters, key=count)
    best = min(widths[max(place - 1, 0) : place + 1], key=lambda hidden: abs(count(hidden) - parameters))
    return FramePredictor(config, kind, best)


def parameters_of(model: nn.Module) -> int:
    """How many there are."""
    return sum(cast(Tensor, x).numel() for x in model.parameters())
