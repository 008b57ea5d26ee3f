"""The fusion of states on CPUs: addresses and threads for the compiled pass of `cpu_kernels`."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.cpu import threads
from visionssm.kernels.layout import addresses, packed
from visionssm.kernels.state_fusion.cpu_kernels import fusion_forward


def forward(h: Tensor, kernels: Tensor) -> Tensor:
    """y; shapes are those of `visionssm.kernels.state_fusion`."""
    batch, height, width, channels = h.shape
    states, weights = packed(h.detach()), packed(kernels.detach())
    y = states.new_empty(states.shape)
    threads.run_kernel(
        fusion_forward,
        batch * height,
        height=height,
        width=width,
        channels=channels,
        **addresses(weights=weights, h=states, y=y),
    )
    return y
