"""The states of a selective scan themselves, for models that mix them before they are read out."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.selective_scan import LowRank, selective_scan


def scan_states(
    u: Tensor,
    dt: Tensor | LowRank,
    a: Tensor,
    b: Tensor,
    *,
    order: Tensor,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> Tensor:
    """h_t = exp(Δ_t a)·h_{t-1} + Δ_t b_t u_t at every pixel of every route, with nothing read out.

    With one state per channel this is the scan read out by ones. A channel with N states is scanned as N channels with
    one state each; what the kernels read is then as large as the states, which have to be written anyway.
    Spatial-Mamba (Xiao et al. 2024, arXiv 2410.15091) fuses these states over the map before it reads them out.

    Args:
        u, dt, a, b, order, dt_bias, initial_state: as of `selective_scan`. A route must visit a pixel at most once;
            states of several visits are added.

    Returns:
        (B, K, L, Dk, N) in u's dtype; zeros where a route does not go.

    Raises:
        ValueError: as `selective_scan`.

    Examples:
        >>> import torch, visionssm
        >>> u, dt = torch.randn(1, 35, 16), torch.randn(1, 35, 1, 16)
        >>> a, b = -torch.rand(1, 16, 2), torch.randn(1, 35, 1, 2)
        >>> visionssm.scan_states(u, dt, a, b, order=visionssm.routes.raster(7, 5)).shape
        torch.Size([1, 1, 35, 16, 2])
    """
    if a.ndim != 3 or u.ndim != 3 or b.ndim != 4 or b.shape[2:] != (a.shape[0], a.shape[2]):
        raise ValueError(
            f"u has shape {tuple(u.shape)}, a {tuple(a.shape)} and b {tuple(b.shape)};"
            " expected (B, L, D), (K, Dk, N) and (B, L, K, N)"
        )
    n_routes, route_channels, d_state = a.shape

    def each_state(x: Tensor) -> Tensor:
        """(…, Dk) to (…, Dk·N)."""
        return x if d_state == 1 else x.repeat_interleave(d_state, dim=-1)

    one = torch.ones((), dtype=u.dtype, device=u.device).expand(*u.shape[:2], n_routes, 1)
    if d_state > 1:
        shared = route_channels == u.shape[-1]
        maps = u[:, :, None].expand(-1, -1, n_routes, -1) if shared else u.unflatten(-1, (n_routes, route_channels))
        u, b = (maps[..., None] * b[..., None, :]).flatten(2), one  # (B, L, K·Dk·N): the routes are channel groups
    h = selective_scan(
        u,
        LowRank(dt.low, each_state(dt.weight)) if isinstance(dt, LowRank) else each_state(dt),
        a.flatten(1)[..., None],
        b,
        one,
        order=order,
        dt_bias=None if dt_bias is None else each_state(dt_bias),
        initial_state=None if initial_state is None else initial_state.flatten(3)[..., None],
        merge=False,
    )
    assert isinstance(h, Tensor)
    return h.unflatten(-1, (route_channels, d_state))
