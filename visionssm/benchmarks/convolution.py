"""Vim's causal depth-wise convolution: is PyTorch's own good enough, or does it want a kernel of ours?

It is measured as the layers run it, beside the other ways to write it in PyTorch, beside a copy of the tokens (the
least that any kernel can take) and beside the scan that follows it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.benchmarks.kernels import compile_kernels
from visionssm.benchmarks.timing import medians_in_turn, progress
from visionssm.layers.mamba import TokenScan

TOKENS, D_CONV = 197, 4
VIM_CHANNELS = {"Vim-T": 384, "Vim-S": 768, "Vim-B": 1536}


def as_conv1d(layer: TokenScan, x: Tensor) -> Tensor:
    """Channels first, as published: (B, T, D) to (B, T, D) by way of two transposed copies."""
    y = F.conv1d(x.mT.contiguous(), layer.conv1d.weight, layer.conv1d.bias, padding=D_CONV - 1, groups=layer.dim)
    return y[..., : x.shape[1]].mT.contiguous()


def as_shifted_sum(layer: TokenScan, x: Tensor) -> Tensor:
    """Four shifted maps, each times its tap."""
    padded, taps = F.pad(x, (0, 0, D_CONV - 1, 0)), layer.conv1d.weight[:, 0]
    assert layer.conv1d.bias is not None
    y = padded[:, : x.shape[1]] * taps[:, 0] + layer.conv1d.bias
    for i in range(1, D_CONV):
        y = torch.addcmul(y, padded[:, i : i + x.shape[1]], taps[:, i])
    return y


def as_layer(layer: TokenScan, x: Tensor) -> Tensor:
    """The convolution of the layer: PyTorch's, in two dimensions and channels last."""
    return layer.convolve(x[:, None])[:, 0]


@torch.no_grad()
def run(*, batches: tuple[int, ...] = (1, 8), seconds: float = 6.0) -> list[dict[str, Any]]:
    """A row for every Vim and batch."""
    with torch.enable_grad():
        compile_kernels()
    rows = []
    for name, channels in VIM_CHANNELS.items():
        layer = TokenScan(channels, d_state=16, dt_rank=channels // 32, d_conv=D_CONV)
        for batch in batches:
            progress(f"convolution of {name}, batch {batch} …")
            x = torch.randn(batch, TOKENS, channels, generator=torch.Generator().manual_seed(0))
            out, order = torch.empty_like(x), layer.route(x[:, None])
            times = medians_in_turn(
                {
                    "ours": partial(as_layer, layer, x),
                    "conv1d": partial(as_conv1d, layer, x),
                    "shifted": partial(as_shifted_sum, layer, x),
                    "copy": partial(out.copy_, x),
                    "scan": partial(layer.scan, x[:, None], order),
                },
                seconds=seconds,
            )
            rows.append(
                {
                    "convolution": name,
                    "batch": batch,
                    "ours ms": times["ours"] * 1e3,
                    "conv1d / ours": times["conv1d"] / times["ours"],
                    "shifted sum / ours": times["shifted"] / times["ours"],
                    "ours / copy": times["ours"] / times["copy"],
                    "scan and projections / ours": times["scan"] / times["ours"],
                }
            )
    return rows
