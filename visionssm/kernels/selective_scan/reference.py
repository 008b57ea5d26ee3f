"""The selective scan, defined: plain PyTorch, any float dtype, differentiable, one step at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.kernels.selective_scan.scan import Scan

Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def step_by_step(h: Tensor, delta: Tensor, drive: Tensor, b: Tensor, c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence over steps. `drive` is Δu; all but `h` (B, K, S, Dk, N) and `a` are (B, K, S, T, ·)."""
    a = a[:, None]  # (K, 1, Dk, N)
    outputs = []
    # Taken apart once: the gradient of indexing step by step is a tensor of all steps, for each of them.
    for delta_t, drive_t, b_t, c_t in zip(*(x.unbind(3) for x in (delta, drive, b, c)), strict=True):
        h = torch.exp(delta_t[..., None] * a) * h + drive_t[..., None] * b_t[..., None, :]
        outputs.append((h * c_t[..., None, :]).sum(-1))
    return (torch.stack(outputs, 3) if outputs else torch.zeros_like(delta)), h


def selective_scan_reference(scan: Scan, merge: bool, recurrence: Recurrence = step_by_step) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t a) h_{t-1} + Δ_t b_t u_t,  y_t = <c_t, h_t> + skip u_t,  along every route of `order`.

    Returns the map and the final state (B, K, S, Dk, N).
    """
    compute = torch.float64 if scan.u.dtype == torch.float64 else torch.float32
    u, dt, a, b, c = (x.to(compute) for x in (scan.u, scan.dt, scan.a, scan.b, scan.c))
    n_routes, route_channels = scan.n_routes, scan.route_channels
    shared = route_channels == scan.channels  # every route reads all channels; else route k its own k-th group of them

    per_route = u[:, :, None].expand(-1, -1, n_routes, -1) if shared else u.unflatten(-1, (n_routes, route_channels))
    if scan.dt_weight is not None:
        dt = torch.einsum("blkr,krd->blkd", dt, scan.dt_weight.to(compute))

    # Each (B, K, S, T, ·).
    u_steps, dt_steps, b_steps, c_steps = (along_routes(x, scan.order) for x in (per_route, dt, b, c))
    if scan.dt_bias is not None:
        dt_steps = dt_steps + scan.dt_bias.to(compute)[:, None, None]
    delta = F.softplus(dt_steps)

    h = u.new_zeros(scan.state_shape) if scan.initial_state is None else scan.initial_state.to(compute)
    y, h = recurrence(h, delta, delta * u_steps, b_steps, c_steps, a)
    if scan.skip is not None:
        y = y + scan.skip.to(compute)[:, None, None] * u_steps

    maps = back_to_pixels(y, scan.order, scan.pixels)  # (B, K, L, Dk)
    if merge:
        maps = maps.sum(1) if shared else maps.transpose(1, 2).flatten(2)
    return maps.to(scan.u.dtype), h


def along_routes(x: Tensor, order: Tensor) -> Tensor:
    """(B, L, K, C) pixels to (B, K, S, T, C) steps; step −1 reads zeros."""
    batch, _, _, width = x.shape
    padded = F.pad(x, (0, 0, 0, 0, 0, 1)).transpose(1, 2)  # (B, K, L + 1, C); row L is the pixel outside
    index = torch.where(order < 0, x.shape[1], order).long().flatten(1)  # (K, S·T)
    steps = padded.gather(2, index[None, :, :, None].expand(batch, -1, -1, width))
    return steps.unflatten(2, order.shape[1:])


def back_to_pixels(y: Tensor, order: Tensor, pixels: int) -> Tensor:
    """(B, K, S, T, C) steps to (B, K, L, C) pixels; visits of one pixel add up, step −1 writes nothing."""
    index = torch.where(order < 0, pixels, order).long().flatten(1)
    out = y.new_zeros(y.shape[0], y.shape[1], pixels + 1, y.shape[-1])
    steps = y.flatten(2, 3)
    return out.scatter_add(2, index[None, :, :, None].expand_as(steps), steps)[:, :, :pixels]
