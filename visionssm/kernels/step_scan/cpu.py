"""Scans of a re-ordered map on CPUs: addresses and threads for the compiled pass of `cpu_kernels`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.math import LANES
from visionssm.kernels.layout import addresses, packed, placed, with_unit_stride
from visionssm.kernels.selective_scan import LowRank
from visionssm.kernels.step_scan.cpu_kernels import PANEL, ROUTES, step_scan_forward

_TILE_FLOATS = 6 * 1024  # states, matrix and panel of a tile: about half of a first-level cache


def takes(u: Tensor, order: Tensor) -> bool:
    """Whether channels are whole vectors, and the routes those that the pass walks together."""
    return u.shape[-1] % LANES == 0 and order.shape[0] == ROUTES


def forward(
    u: Tensor, dt: LowRank, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, order: Tensor
) -> Tensor:
    """y; shapes are those of `visionssm.kernels.step_scan`, for what `takes` says."""
    u, low, c = (with_unit_stride(x.detach()) for x in (u, dt.low, c))
    batch, pixels, channels = u.shape
    d_state, rank = a.shape[-1], low.shape[-1]
    y = u.new_empty(u.shape)
    weight, a, b, d, dt_bias = map(packed, (dt.weight, a, b, d, dt_bias))
    order = order.to(torch.int32).contiguous()
    blocks = channels // LANES
    most = max(1, _TILE_FLOATS // ((ROUTES + 1) * d_state + rank + PANEL) // LANES)
    tiles = max(math.ceil(blocks / most), min(blocks, math.ceil(torch.get_num_threads() / max(batch, 1))))
    tile = math.ceil(blocks / tiles) * LANES
    threads.run_kernel(
        step_scan_forward,
        batch * math.ceil(channels / tile),
        tile=tile,
        n_pixels=pixels,
        n_channels=channels,
        d_state=d_state,
        rank=rank,
        **placed("u", u, "batch", "pixel"),
        **placed("dt", low, "batch", "step"),
        **placed("c", c, "batch", "step"),
        **addresses(y=y, b=b, weight=weight, a=a, skip=d, bias=dt_bias, order=order),
    )
    return y
