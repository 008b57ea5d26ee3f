"""Selective state-space scan of a feature map along any set of routes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import select_backend
from visionssm.kernels.checks import check_floating, check_order, check_same_device, check_shape
from visionssm.kernels.selective_scan import op as _op  # noqa: F401  (registers the operator)
from visionssm.kernels.selective_scan.export import exportable_steps
from visionssm.kernels.selective_scan.reference import selective_scan_reference, step_by_step

__all__ = ["LowRank", "selective_scan"]

MAX_STATE = 64


class LowRank(NamedTuple):
    """Step sizes as a product that the kernel expands tile by tile: dt[b, l, k] = low[b, l, k] @ weight[k].

    The (B, L, K, Dk) step tensor, the largest of the published implementations, is then never written.

    Examples:
        >>> import torch, visionssm
        >>> steps = visionssm.LowRank(torch.randn(1, 49, 4, 2), torch.randn(4, 2, 16))  # of rank 2, for 16 channels
    """

    low: Tensor  # (B, L, K, R)
    weight: Tensor  # (K, R, Dk)


def selective_scan(
    u: Tensor,
    dt: Tensor | LowRank,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    order: Tensor,
    d: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    merge: bool = True,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective state-space scan (S6) of a feature map along several routes.

    h_t = exp(Δ_t a)·h_{t-1} + Δ_t b_t u_t,   y_t = <c_t, h_t> + d u_t,   Δ_t = softplus(dt_t + dt_bias)
    (Gu & Dao 2023, arXiv 2312.00752, eq. 2; four routes over a map: Liu et al. 2024, arXiv 2401.10166).

    Route k visits the pixels that `order[k]` names, as S independent sequences of T steps; all sequences of a route
    share its parameters. Step −1 reads a pixel of zeros outside the map and writes nothing (the state still decays by
    the step that `dt_bias` alone gives). A pixel may be visited several times or never; contributions add up.

    Args:
        u: (B, L, D) map in row-major pixel order, any float dtype.
        dt: step sizes before bias and softplus, (B, L, K, Dk), or a `LowRank` pair. Dk = D: every route scans every
            channel; K·Dk = D: route k scans the k-th group of Dk channels.
        a: (K, Dk, N) state matrix, negative for a stable state; N from 1 to 64.
        b, c: (B, L, K, N) input and output vectors.
        order: (K, S, T) int32 pixel numbers from `visionssm.kernels.routes`.
        d: (K, Dk) skip, or None.
        dt_bias: (K, Dk), or None.
        initial_state: (B, K, S, Dk, N) state before the first step, or None for zeros.
        merge: sum the routes into one map (or, with channel groups, put the groups side by side).
        return_final_state: also return the state after the last step.

    Returns:
        (B, L, D) if `merge`, else one map a route, (B, K, L, Dk); in u's dtype. The state is kept in float32
        (float64 for float64 maps), whatever the dtype of the inputs. With `return_final_state`, a pair with the
        state (B, K, S, Dk, N).

    Raises:
        ValueError: shapes, dtypes or devices disagree, or `order` names a pixel outside the map.

    Examples:
        >>> import torch, visionssm
        >>> u = torch.randn(1, 7 * 5, 16)  # a map of 7 × 5 pixels with 16 channels
        >>> order = visionssm.routes.ss2d(7, 5)  # four routes
        >>> dt, a = torch.randn(1, 35, 4, 16), -torch.rand(4, 16, 2)
        >>> b, c = torch.randn(2, 1, 35, 4, 2)
        >>> visionssm.selective_scan(u, dt, a, b, c, order=order).shape
        torch.Size([1, 35, 16])
    """
    low, weight = dt if isinstance(dt, LowRank) else (dt, None)
    _check_inputs(u, low, weight, a, b, c, d, dt_bias, order, initial_state)
    backend = select_backend(u)
    if backend in ("reference", "export"):
        recurrence = exportable_steps if backend == "export" else step_by_step
        with without_autocast(u.device.type):  # which would round the product of low-rank steps
            y, state = selective_scan_reference(
                u, low, weight, a, b, c, d, dt_bias, order, initial_state, merge, recurrence
            )
    else:
        tensors = (u, low, weight, a, b, c, d, dt_bias, initial_state)
        save_states = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        y, state, _ = torch.ops.visionssm.selective_scan(
            u, low, weight, a, b, c, d, dt_bias, order, initial_state, merge, save_states
        )
    return (y, state) if return_final_state else y


def _check_inputs(
    u: Tensor,
    dt: Tensor,
    weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    dt_bias: Tensor | None,
    order: Tensor,
    initial_state: Tensor | None,
) -> None:
    names = ("u", "dt", "dt.weight", "a", "b", "c", "d", "dt_bias", "initial_state")
    given = dict(zip(names, (u, dt, weight, a, b, c, d, dt_bias, initial_state), strict=True))
    tensors = {name: x for name, x in given.items() if x is not None}
    check_floating(tensors)
    check_same_device({**tensors, "order": order})

    check_shape("u", u, ("B", "L", "D"))
    check_shape("a", a, ("K", "Dk", "N"))
    check_shape("order", order, ("K", "S", "T"))
    batch, pixels, channels = u.shape
    n_routes, route_channels, d_state = a.shape
    if route_channels != channels and n_routes * route_channels != channels:
        raise ValueError(
            f"a has {route_channels} channels a route and u has {channels}: give {channels} (every route scans every"
            f" channel) or u's channels divided by the {n_routes} routes"
        )
    if not 1 <= d_state <= MAX_STATE:
        raise ValueError(f"a has a state of N={d_state}; the scan takes 1 to {MAX_STATE}")
    sizes = {"B": batch, "L": pixels, "K": n_routes, "Dk": route_channels, "N": d_state, "S": order.shape[1]}
    if weight is None:
        check_shape("dt", dt, ("B", "L", "K", "Dk"), sizes)
    else:
        check_shape("dt.low", dt, ("B", "L", "K", "R"), sizes)
        check_shape("dt.weight", weight, ("K", "R", "Dk"), {**sizes, "R": dt.shape[-1]})
    check_shape("b", b, ("B", "L", "K", "N"), sizes)
    check_shape("c", c, ("B", "L", "K", "N"), sizes)
    check_shape("order", order, ("K", "S", "T"), sizes)
    if d is not None:
        check_shape("d", d, ("K", "Dk"), sizes)
    if dt_bias is not None:
        check_shape("dt_bias", dt_bias, ("K", "Dk"), sizes)
    if initial_state is not None:
        check_shape("initial_state", initial_state, ("B", "K", "S", "Dk", "N"), sizes)
    check_order(order, pixels)
