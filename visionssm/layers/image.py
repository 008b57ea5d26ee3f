"""What every backbone asks of an image before it looks at its pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionssm.layers.leaf import leaf_function


@leaf_function
def checked_images(x: Tensor, in_chans: int, least: int) -> Tensor:
    """`x`, if it is a batch of images.

    Args:
        x: (B, C, H, W).
        in_chans: C.
        least: rows and columns that an image has to have.

    Raises:
        ValueError: `x` has another shape, or whole numbers.
    """
    if torch.compiler.is_compiling():  # sizes may be open
        return x
    if x.ndim != 4:
        remedy = "; x[None] makes a batch of a single image" if x.ndim == 3 else ""
        raise ValueError(f"x has shape {tuple(x.shape)}; expected images of shape (B, C={in_chans}, H, W){remedy}")
    if x.shape[1] != in_chans:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, so images of {x.shape[1]} channels; expected (B, C={in_chans}, H, W), or a"
            f" model made with in_chans={x.shape[1]}"
        )
    if min(x.shape[2:]) < least:
        height, width = x.shape[2:]
        raise ValueError(f"an image of {height}x{width} pixels is too small; give at least {least}x{least}")
    if not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype}, expected floating-point pixels, normalised as the model takes them: x.float() / 255 of"
            " 8-bit ones are in [0, 1]"
        )
    return x


def least_side(stem: nn.Module) -> int:
    """Rows and columns of the smallest map that the first convolution of a stem takes."""
    for module in stem.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
            sides = zip(module.kernel_size, module.padding, module.dilation, strict=True)
            return max(1, *((kernel - 1) * dilation + 1 - 2 * padding for kernel, padding, dilation in sides))
    return 1
