"""Convolution of channels-last maps."""

from __future__ import annotations

from torch import Tensor, nn


class MapConv2d(nn.Conv2d):
    """`nn.Conv2d` on (B, H, W, C) maps.

    The permutes are views: a channels-last map is an NCHW tensor in PyTorch's channels_last memory format, for which
    the convolution has its own kernels and keeps the format. State keys are those of `nn.Conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) to (B, H', W', C_out)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
