"""The layout of maps in memory, also where PyTorch has no name for it."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import export_requested
from visionssm.kernels.transforms import transformed
from visionssm.layers.leaf import leaf_function


def channels_last(x: Tensor) -> Tensor:
    """A (B, C, H, W) map in PyTorch's channels_last memory format; one that is in it stays itself.

    Where scans are exported as loops it is contiguous: not every runtime of exported programs knows memory formats, and
    ExecuTorch's takes the permutation of a map that has one for an error.
    """
    if export_requested():
        return x.contiguous()
    if transformed():  # `vmap` knows no memory formats, but a view of a contiguous map has this one
        return channels_last_of_any(x)
    return x.contiguous(memory_format=torch.channels_last)


def channels_last_of_any(x: Tensor) -> Tensor:
    """A (B, C, *sides) map with its channels last in memory, of any number of sides."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


@leaf_function  # it looks at the device
def image_map(x: Tensor) -> Tensor:
    """A (B, C, H, W) image in the format that a stem of dense convolutions is fastest in.

    On CPUs that is the contiguous one, because `PreciseConv2d` would bring every map into it and back.
    """
    return x.contiguous() if x.device.type == "cpu" and not torch.compiler.is_compiling() else channels_last(x)
