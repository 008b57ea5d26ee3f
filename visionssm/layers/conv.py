"""Convolution of channels-last maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels.transforms import traced, transformed
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import affine, plain
from visionssm.layers.memory_format import channels_last

HEAVY = 16  # weights over numbers of the map, from where `by_columns` is faster


def heavy(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `by_columns` is for this convolution of the map `x`: on CPUs, with weights far larger than the map."""
    simple = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    # Compilers choose layouts themselves, and exporters would fix the sizes.
    eager = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return eager and simple and conv.weight.numel() > HEAVY * x.numel()


def by_columns(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution as one matrix product, (B, C_in, H, W) to (B, H', W', C_out).

    oneDNN brings the weights into a layout of its own at every call, as much memory as they take themselves. Between
    the last stages at batch 1, where a map has few pixels and the weights are tens of megabytes, that costs more than
    the convolution. A matrix product reads the weights as they lie.
    """
    assert not isinstance(conv.padding, str)
    (pad, _), (dilation, _), (kernel, _), (stride, _) = conv.padding, conv.dilation, conv.kernel_size, conv.stride
    rows = (x.shape[2] + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    columns = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # (B, C_in·k², H'·W')
    return affine(columns.transpose(1, 2).contiguous(), conv.weight.flatten(1), conv.bias).unflatten(1, (rows, -1))


@leaf_module  # it looks at sizes and the device
class MapConv2d(nn.Conv2d):
    """`nn.Conv2d` on (B, H, W, C) maps.

    The permutes are views: a channels-last map is an NCHW tensor in PyTorch's channels_last memory format, for which
    the convolution has its own kernels and keeps the format. State keys are those of `nn.Conv2d`.

    On CPUs those kernels bring the weights into a layout of their own at every call. Where the weights are larger than
    the map, as between the last stages at batch 1, that costs more than the convolution, and the map is made
    contiguous instead; where they are much larger, it is a matrix product.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) to (B, H', W', C_out)."""
        x = x.permute(0, 3, 1, 2)
        if heavy(self, x):
            return by_columns(self, x)
        # Compilers choose layouts themselves, and exporters would fix the sizes.
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and self.weight.numel() > x.numel():
            return super().forward(x.contiguous()).permute(0, 2, 3, 1).contiguous()
        return super().forward(x).permute(0, 2, 3, 1)


Activation = Callable[[Tensor], Tensor]
_OVER_ITS_INPUT: dict[Activation, Activation] = {
    F.silu: partial(F.silu, inplace=True),
    F.gelu: torch.ops.aten.gelu_.default,
}


def activated(conv: nn.Module, x: Tensor, activation: Activation, *, residual: bool = False) -> Tensor:
    """activation(conv(x)), or with `residual` activation(x + conv(x)), of a convolution that gives a new map.

    In inference the result is written over the convolution's, where nobody else can hold that (no gradients, no hooks,
    no tracer): a map of megabytes in new memory costs more time than a SiLU, for the pages that it touches first.

    Args:
        conv: a `MapConv2d`, or what stands in for one.
        x: what it takes.
        activation: `F.silu` and `F.gelu` can be written over their input.
        residual: add x before the activation.
    """
    over = _OVER_ITS_INPUT.get(activation)
    alone = (
        type(x) is Tensor  # of another type are the symbols of a graph's tracer
        and not torch.is_grad_enabled()
        and plain(conv, MapConv2d)
        and not traced((x,))
        and not transformed()
    )
    y = conv(x)
    if not alone or over is None:
        return activation(x + y if residual else y)
    return over(y.add_(x) if residual else y)


@leaf_module  # it looks at the dtype and the device
class PreciseConv2d(nn.Conv2d):
    """`nn.Conv2d` of (B, C, H, W) maps in the channels_last format that loses no precision on CPUs.

    In float32, PyTorch's CPU kernel for that format adds the C·k² products of an output one after the other: with 64
    to 1024 channels its error is two to five times that of the kernel for the contiguous format, which adds them in
    blocks. Deep networks amplify it, and ReLUs and sampling positions that are so close to a kink then fall on the
    wrong side. So a map in that format is made contiguous for the convolution alone, which costs a copy of the map
    before and after; chains of convolutions on large maps save them by keeping to the contiguous format (`image_map`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W'), in x's format."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and self.groups == 1 and self.kernel_size != (1, 1):
            if heavy(self, x):
                y = by_columns(self, x).permute(0, 3, 1, 2)
                return y.contiguous() if _contiguous(x) else y
            y = super().forward(x.contiguous())
            return y if _contiguous(x) else channels_last(y)
        return super().forward(x)


def _contiguous(x: Tensor) -> bool:
    """Whether the map is in the contiguous format; exporters, whose sizes are open, cannot answer that."""
    return not torch.compiler.is_compiling() and x.is_contiguous()
