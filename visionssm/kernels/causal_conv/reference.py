"""The definition: a depth-wise convolution of tokens that looks to one side, and SiLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *, backwards: bool = False) -> Tensor:
    """The convolution alone, (B, T, D); shapes are those of `visionssm.kernels.causal_conv.causal_conv_silu`.

    As a 2-D convolution of a map of one row, because PyTorch has channels-last kernels for these alone; the permutes
    are then views. It is padded on both sides, and what is too much cut off.
    """
    taps = weight.shape[1]
    y = F.conv2d(
        x.unsqueeze(1).permute(0, 3, 1, 2),
        (weight.flip(1) if backwards else weight)[:, None, None],
        bias,
        padding=(0, taps - 1),
        groups=weight.shape[0],
    )
    y = y.permute(0, 2, 3, 1).squeeze(1)  # (B, T + taps − 1, D)
    return y[:, taps - 1 :] if backwards else y[:, : x.shape[1]]


def causal_conv_silu_reference(x: Tensor, weight: Tensor, bias: Tensor | None, *, backwards: bool = False) -> Tensor:
    """y; shapes are those of `visionssm.kernels.causal_conv.causal_conv_silu`."""
    return F.silu(causal_conv(x, weight, bias, backwards=backwards))
