"""The definition, by `selective_scan`, which reads all vectors at the pixel that a step visits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.kernels.routes import visits
from visionssm.kernels.selective_scan import LowRank, selective_scan


class Steps(NamedTuple):
    """Routes that visit every pixel once, and the way back from pixels to steps.

    Attributes:
        order: (K, 1, L) table of the pixel of every step.
        visited: (L·K,) for each pixel and route, the number of the step that visits it.
        of_route: (L·K,) the same, as the number of that step and route among all steps of all routes, t·K + k.
    """

    order: Tensor
    visited: Tensor
    of_route: Tensor

    @classmethod
    def of(cls, order: Tensor) -> Steps:
        """Those of (K, 1, L) routes."""
        n_routes = order.shape[0]
        steps = visits(order, order.shape[-1])[:, 0].T  # (L, K)
        of_route = steps * n_routes + torch.arange(n_routes, dtype=order.dtype, device=order.device)
        return cls(order, steps.flatten(), of_route.flatten())


def step_scan_reference(
    u: Tensor, dt: LowRank, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, steps: Steps
) -> Tensor:
    """y; shapes are those of `visionssm.kernels.step_scan`."""
    n_routes, rank = steps.order.shape[0], dt.low.shape[-1]
    common = torch.cat([dt.low, c], dim=-1).index_select(1, steps.visited).unflatten(1, (-1, n_routes))
    low, c = common.split([rank, a.shape[-1]], dim=-1)  # (B, L, K, …)
    b = b.flatten(1, 2).index_select(1, steps.of_route).unflatten(1, (-1, n_routes))

    def shared(x: Tensor) -> Tensor:
        return x.expand(n_routes, *x.shape)

    weights = LowRank(low, shared(dt.weight))
    y = selective_scan(u, weights, shared(a), b, c, order=steps.order, d=shared(d), dt_bias=shared(dt_bias))
    assert isinstance(y, Tensor)
    return y
