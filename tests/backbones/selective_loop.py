"""The selective scan of one sequence in NumPy, float64, written down again from the equation."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from visionssm.layers import RouteScan

Array = np.ndarray


def array(x: Tensor) -> Array:
    """A tensor as a float64 array."""
    return x.detach().double().numpy()


def scan_sequence(scan: RouteScan, route: int, u: Array, outside: Array | None = None) -> Array:
    """y (T, D) of u (T, D) with one route's parameters.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t h_t + D u_t, Δ = softplus(W_dt (W_x u)_dt + bias).
    `outside` (T,) marks steps outside the map: u, and with it B and C, are zero there.
    """
    channels, rank, n = scan.dim, scan.dt_rank, scan.d_state
    u = u if outside is None else np.where(outside[:, None], 0.0, u)
    rows = slice(route * channels, (route + 1) * channels)
    a, skip = -np.exp(array(scan.A_logs)[rows]), array(scan.Ds)[rows]
    low, b, c = np.split(u @ array(scan.x_proj_weight)[route].T, [rank, rank + n], axis=1)
    delta = np.log1p(np.exp(low @ array(scan.dt_projs_weight)[route].T + array(scan.dt_projs_bias)[route]))
    h = np.zeros((channels, n))
    y = np.empty_like(u)
    for t in range(len(u)):
        h = np.exp(delta[t, :, None] * a) * h + delta[t, :, None] * b[t] * u[t, :, None]
        y[t] = h @ c[t] + skip * u[t]
    return y
