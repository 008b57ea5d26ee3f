"""Selective state-space scan of a feature map along any set of routes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import select_backend
from visionssm.kernels.checks import check_floating, check_once, check_order, check_same_device, check_shape
from visionssm.kernels.selective_scan.export import exportable_steps
from visionssm.kernels.selective_scan.op import selective_scan_op
from visionssm.kernels.selective_scan.reference import selective_scan_reference, step_by_step
from visionssm.kernels.selective_scan.scan import Scan

__all__ = ["LowRank", "selective_scan"]

MAX_STATE = 64
_RIGHT: set[object] = set()  # see `check_once`


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

    h_t = exp(Δ_t a)·h_{t-1} + Δ_t b_t u_t,   y_t = ⟨c_t, h_t⟩ + d u_t,   Δ_t = softplus(dt_t + dt_bias)
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
        (B, L, D) if `merge`, else one map per route, (B, K, L, Dk); in u's dtype. The state is kept in float32
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
    scan = Scan(u, low, weight, a, b, c, d, dt_bias, order, initial_state)
    check_once(_RIGHT, scan, lambda: _check_inputs(scan))
    check_order(order, scan.pixels)
    backend = select_backend(u)
    if backend in ("reference", "export"):
        recurrence = exportable_steps if backend == "export" else step_by_step
        with without_autocast(u.device.type):  # which would round the product of low-rank steps
            y, state = selective_scan_reference(scan, merge, recurrence)
    else:
        y, state = selective_scan_op(scan, merge)
    return (y, state) if return_final_state else y


def _check_inputs(scan: Scan) -> None:
    shown = {"skip": "d", "dt_weight": "dt.weight", "dt": "dt" if scan.dt_weight is None else "dt.low"}
    tensors = {shown.get(name, name): x for name, x in scan._asdict().items() if x is not None}
    check_same_device(tensors)
    check_floating({name: x for name, x in tensors.items() if name != "order"})

    check_shape("u", scan.u, ("B", "L", "D"))
    check_shape("a", scan.a, ("K", "Dk", "N"))
    check_shape("order", scan.order, ("K", "S", "T"))
    channels, n_routes, route_channels = scan.channels, scan.n_routes, scan.route_channels
    if channels < 1 or n_routes < 1:
        raise ValueError(f"u has {channels} channels and a {n_routes} routes; give at least one of each")
    if route_channels != channels and n_routes * route_channels != channels:
        raise ValueError(
            f"a has {route_channels} channels a route and u has {channels}: give {channels} (every route scans every"
            f" channel) or u's channels divided by the {n_routes} routes"
        )
    if not 1 <= scan.d_state <= MAX_STATE:
        raise ValueError(f"a has a state of N={scan.d_state}; the scan takes 1 to {MAX_STATE}")
    sizes = {"B": scan.batch, "L": scan.pixels, "K": n_routes, "Dk": route_channels, "N": scan.d_state}
    sizes["S"] = scan.n_sequences
    dt = scan.dt
    if scan.dt_weight is None:
        check_shape("dt", dt, ("B", "L", "K", "Dk"), sizes)
    else:
        check_shape("dt.low", dt, ("B", "L", "K", "R"), sizes)
        if dt.shape[-1] < 1:
            raise ValueError("dt.low has a rank of R=0; give at least 1, or step sizes for every channel")
        check_shape("dt.weight", scan.dt_weight, ("K", "R", "Dk"), {**sizes, "R": dt.shape[-1]})
    check_shape("b", scan.b, ("B", "L", "K", "N"), sizes)
    check_shape("c", scan.c, ("B", "L", "K", "N"), sizes)
    check_shape("order", scan.order, ("K", "S", "T"), sizes)
    if scan.skip is not None:
        check_shape("d", scan.skip, ("K", "Dk"), sizes)
    if scan.dt_bias is not None:
        check_shape("dt_bias", scan.dt_bias, ("K", "Dk"), sizes)
    if scan.initial_state is not None:
        check_shape("initial_state", scan.initial_state, ("B", "K", "S", "Dk", "N"), sizes)
