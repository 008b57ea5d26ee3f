"""Multi-scale convolutions on CPUs: addresses and threads for the compiled pass of `cpu_kernels`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.pixel_rows import stride_of
from visionssm.kernels.layout import addresses, packed
from visionssm.kernels.multi_scale.cpu_kernels import multi_scale_forward
from visionssm.kernels.multi_scale.reference import Depthwise, Norm

_BAND_FLOATS = 1 << 17  # rows of a band, normalised: half of a second-level cache


def forward(
    x: Tensor, position: Depthwise | None, norm: Norm, scales: tuple[Depthwise, ...], last_norm: Norm
) -> tuple[Tensor, Tensor]:
    """y and its norm; shapes are those of `visionssm.kernels.multi_scale`."""
    x = packed(x.detach())
    batch, height, width, channels = x.shape
    y, normed = x.new_empty(x.shape), x.new_empty(x.shape)
    sides = tuple(scale.weight.shape[-1] for scale in scales)
    reach = max(sides) // 2
    weights, biases = torch.cat([w.flatten() for w, _ in scales]), torch.cat([b for _, b in scales])
    place_weight, place_bias = (None, None) if position is None else map(packed, position)
    scale, shift, last_scale, last_shift = map(packed, (norm.weight, norm.bias, last_norm.weight, last_norm.bias))
    epsilons, table = constants(norm.eps, last_norm.eps), _table(sides)
    band = rows_at_once(batch, height, stride_of(width, channels, reach), reach, _BAND_FLOATS)
    threads.run_kernel(
        multi_scale_forward,
        batch * -(-height // band),
        height=height,
        width=width,
        channels=channels,
        band=band,
        reach=reach,
        parts=len(scales),
        **addresses(
            x=x, y=y, normed=normed, sides=table, weights=weights, biases=biases, place_weight=place_weight,
            place_bias=place_bias, scale=scale, shift=shift, last_scale=last_scale, last_shift=last_shift,
            epsilons=epsilons,
        ),
    )  # fmt: skip
    return y, normed


def rows_at_once(batch: int, height: int, stride: int, reach: int, floats: int) -> int:
    """Rows of a task: as many as the threads leave to one, but no more than fit into so many floats."""
    tasks = max(1, -(-torch.get_num_threads() // max(batch, 1)))
    return max(1, min(-(-height // tasks), floats // stride - 2 * reach))


@functools.lru_cache(64)
def constants(*values: float) -> Tensor:
    """Numbers in memory."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device="cpu")


@functools.lru_cache(64)
def _table(sides: tuple[int, ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(sides, dtype=torch.int32, device="cpu")
