"""The selective scan of a re-ordered map: routes differ in the pixels they visit and in b, not in dt, a and c."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.checks import check_once, check_order, check_same_device, check_shape
from visionssm.kernels.selective_scan import LowRank
from visionssm.kernels.step_scan.reference import Steps, step_scan_reference

__all__ = ["Steps", "step_scan", "steps_of"]

_RIGHT: set[object] = set()  # see `check_once`


def steps_of(order: Tensor) -> Steps:
    """What `step_scan` has to know of (K, 1, L) routes, each of which visits all of L pixels once."""
    return Steps.of(order)


def step_scan(
    u: Tensor, dt: LowRank, a: Tensor, b: Tensor, c: Tensor, *, d: Tensor, dt_bias: Tensor, steps: Steps
) -> Tensor:
    """Selective scan of a map along K routes, where dt, b and c belong to the step and not to the pixel.

    With p = order[k, t], the pixel that route k visits at step t, and Δ_t = softplus(dt_t + dt_bias):

        h_t = exp(Δ_t·a)·h_{t−1} + Δ_t·b_{t,k}·u_p,   y_p += <c_t, h_t> + d·u_p

    (PlainMamba, arXiv 2403.17695, as published: only u is re-ordered). Decays are the same along all routes. In
    inference on CPUs four routes are walked together and share them, which are most of a scan's arithmetic; else the
    vectors are brought to the pixels at whose steps they are used, and `selective_scan` does the rest.

    Args:
        u: (B, L, D) map in row-major pixel order, any float dtype.
        dt: `LowRank` of (B, L, R) and (R, D): of step t of L.
        a: (D, N).
        b: (B, L, K, N), of every step and route.
        c: (B, L, N).
        d, dt_bias: (D,).
        steps: of the routes.

    Returns:
        (B, L, D) in u's dtype, the sum over the routes.

    Raises:
        ValueError: shapes or devices disagree, or the table names a pixel outside the map.

    Examples:
        >>> import torch
        >>> from visionssm.kernels import LowRank, routes
        >>> from visionssm.kernels.step_scan import step_scan, steps_of
        >>> u, dt = torch.randn(2, 6, 8), LowRank(torch.randn(2, 6, 3), torch.randn(3, 8))
        >>> b, c, d = torch.randn(2, 6, 4, 5), torch.randn(2, 6, 5), torch.ones(8)
        >>> steps = steps_of(routes.zigzags(2, 3))
        >>> step_scan(u, dt, -torch.ones(8, 5), b, c, d=d, dt_bias=d, steps=steps).shape
        torch.Size([2, 6, 8])
    """
    tensors = (u, dt.low, dt.weight, a, b, c, d, dt_bias)
    check_once(_RIGHT, (*tensors, steps.order), lambda: _check(*tensors, steps.order))
    if not torch.is_grad_enabled() and runs_compiled(*tensors):
        from visionssm.kernels.step_scan import cpu

        if cpu.takes(u, steps.order):
            check_order(steps.order, u.shape[1])
            return cpu.forward(u, dt, a, b, c, d, dt_bias, steps.order)
    return step_scan_reference(u, dt, a, b, c, d, dt_bias, steps)


def _check(
    u: Tensor, low: Tensor, weight: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, order: Tensor
) -> None:
    check_same_device(
        {"u": u, "dt.low": low, "dt.weight": weight, "a": a, "b": b, "c": c, "d": d, "dt_bias": dt_bias, "order": order}
    )
    check_shape("u", u, ("B", "L", "D"))
    check_shape("a", a, ("D", "N"), {"D": u.shape[-1]})
    sizes = dict(zip(("B", "L", "D", "N", "1"), (*u.shape, a.shape[-1], 1), strict=True))
    check_shape("steps.order", order, ("K", "1", "L"), sizes)
    sizes |= {"K": order.shape[0], "R": low.shape[-1]}
    check_shape("dt.low", low, ("B", "L", "R"), sizes)
    check_shape("dt.weight", weight, ("R", "D"), sizes)
    check_shape("b", b, ("B", "L", "K", "N"), sizes)
    check_shape("c", c, ("B", "L", "N"), sizes)
    check_shape("d", d, ("D",), sizes)
    check_shape("dt_bias", dt_bias, ("D",), sizes)
