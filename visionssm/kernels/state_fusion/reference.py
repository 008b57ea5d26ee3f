"""The definition: three depth-wise convolutions of a map whose border is repeated; and the same as one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 3, 5)
REACH = max(DILATIONS)  # pixels to every side
SIDE = 3
TAPS = SIDE * SIDE


def state_fusion_reference(h: Tensor, kernels: Tensor) -> Tensor:
    """y; shapes are those of `visionssm.kernels.state_fusion`."""
    padded = _padded(h)
    height, width = padded.shape[2:]
    maps = []
    for kernel, dilation in zip(kernels.unbind(), DILATIONS, strict=True):
        rim = REACH - dilation
        inside = padded[:, :, rim : height - rim, rim : width - rim]
        maps.append(F.conv2d(inside, _square(kernel), dilation=dilation, groups=kernel.shape[-1]))
    return torch.stack(maps).sum(0).permute(0, 2, 3, 1)


def state_fusion_dense(h: Tensor, kernels: Tensor) -> Tensor:
    """The three as one dense kernel of 11×11: on CPUs up to 4 times as fast as dilated ones."""
    channels = h.shape[-1]
    merged = kernels.new_zeros(channels, 1, 2 * REACH + 1, 2 * REACH + 1)
    for kernel, dilation in zip(kernels.unbind(), DILATIONS, strict=True):
        taps = slice(REACH - dilation, REACH + dilation + 1, dilation)
        merged[:, :, taps, taps] += _square(kernel)
    return F.conv2d(_padded(h), merged, groups=channels).permute(0, 2, 3, 1)


def _padded(h: Tensor) -> Tensor:
    """(B, H, W, D) to (B, D, H + 10, W + 10)."""
    return F.pad(h.permute(0, 3, 1, 2), (REACH,) * 4, mode="replicate")


def _square(kernel: Tensor) -> Tensor:
    """(9, D) to a convolution's (D, 1, 3, 3)."""
    return kernel.T.unflatten(-1, (1, SIDE, SIDE))
