"""Local positions on CPUs: addresses and threads for the compiled pass of `cpu_kernels`."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.pixel_rows import stride_of
from visionssm.kernels.layout import addresses, packed
from visionssm.kernels.multi_scale.cpu import constants, rows_at_once
from visionssm.kernels.multi_scale.reference import Depthwise, Norm
from visionssm.kernels.position_norm.cpu_kernels import position_norm_forward

_BAND_FLOATS = 1 << 16  # rows of a band: a quarter of a second-level cache


def forward(x: Tensor, update: Tensor, position: Depthwise, norm: Norm) -> tuple[Tensor, Tensor]:
    """y and its norm; shapes are those of `visionssm.kernels.position_norm`."""
    x, update = packed(x.detach()), packed(update.detach())
    batch, height, width, channels = x.shape
    y, normed = x.new_empty(x.shape), x.new_empty(x.shape)
    weight, bias, scale, shift = map(packed, (*position, norm.weight, norm.bias))
    epsilon = constants(norm.eps)
    band = rows_at_once(batch, height, stride_of(width, channels, 1), 1, _BAND_FLOATS)
    threads.run_kernel(
        position_norm_forward,
        batch * -(-height // band),
        height=height,
        width=width,
        channels=channels,
        band=band,
        **addresses(x=x, update=update, y=y, normed=normed, weight=weight, bias=bias),
        **addresses(scale=scale, shift=shift, epsilon=epsilon),
    )
    return y, normed
