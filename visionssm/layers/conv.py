"""Convolution of channels-last maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionssm.layers.leaf import leaf_module
from visionssm.layers.memory_format import channels_last


@leaf_module  # it looks at sizes and the device
class MapConv2d(nn.Conv2d):
    """`nn.Conv2d` on (B, H, W, C) maps.

    The permutes are views: a channels-last map is an NCHW tensor in PyTorch's channels_last memory format, for which
    the convolution has its own kernels and keeps the format. State keys are those of `nn.Conv2d`.

    On CPUs those kernels bring the weights into a layout of their own at every call. Where the weights are larger than
    the map, as between the last stages at batch 1, that costs more than the convolution, and the map is made
    contiguous instead.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) to (B, H', W', C_out)."""
        x = x.permute(0, 3, 1, 2)
        # Compilers choose layouts themselves, and exporters would fix the sizes.
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and self.weight.numel() > x.numel():
            return super().forward(x.contiguous()).permute(0, 2, 3, 1).contiguous()
        return super().forward(x).permute(0, 2, 3, 1)


@leaf_module  # it looks at the dtype and the device
class PreciseConv2d(nn.Conv2d):
    """`nn.Conv2d` of (B, C, H, W) maps in the channels_last format that loses no precision on CPUs.

    In float32, PyTorch's CPU kernel for that format adds the C·k² products of an output one after the other: with 64
    to 1024 channels its error is two to five times that of the kernel for the contiguous format, which adds them in
    blocks. Deep networks amplify it, and ReLUs and sampling positions that are so close to a kink then fall on the
    wrong side. So the map is made contiguous for the convolution alone, which costs about 1 % of a model's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and self.groups == 1 and self.kernel_size != (1, 1):
            return channels_last(super().forward(x.contiguous()))
        return super().forward(x)
