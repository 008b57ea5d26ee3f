"""Sums of the Triton scan in an order of their own, where PyTorch is told to be deterministic.

The kernels add what programs have in common atomically, in whatever order the programs come. With APART, everything
that is added has a place of its own instead: each step of each row (a batch element, a route, a sequence) and, for b, c
and low-rank steps, each block of channels; for parameters each part of each row. Here these are summed, by operations
that PyTorch runs in a fixed order. It takes the memory of a float32 map for each route, and some copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.selective_scan.scan import Scan


def steps_shape(scan: Scan) -> tuple[int, int, int, int]:
    """(B, K, S·T, Dk) of a number for each step and channel."""
    return scan.batch, scan.n_routes, scan.n_sequences * scan.n_steps, scan.route_channels


def to_pixels(steps: Tensor, scan: Scan) -> Tensor:
    """What the steps (B, K, S·T, W) give to each pixel, in the order of the steps, (B, K, L, W)."""
    batch, n_routes, _, width = steps.shape
    pixels = scan.pixels
    order = scan.order.flatten(1).long()
    inside = (order >= 0) & (order < pixels)
    place = torch.where(inside, order, pixels)  # steps outside the map go to a pixel more, which is left out
    place = place + torch.arange(n_routes, dtype=order.dtype, device=order.device)[:, None] * (pixels + 1)
    found = torch.zeros(batch, n_routes * (pixels + 1), width, dtype=steps.dtype, device=steps.device)
    found.index_add_(1, place.flatten(), steps.flatten(1, 2))
    return found.view(batch, n_routes, pixels + 1, width)[:, :, :pixels]


def merged(maps: Tensor, scan: Scan) -> Tensor:
    """A map per route, (B, K, L, Dk), summed, or side by side where each route has channels of its own: (B, L, D)."""
    if scan.route_channels == scan.channels:
        return maps.sum(1)
    return maps.transpose(1, 2).flatten(2)


class GradientsApart:
    """Room for every gradient that the kernel adds, cleared, and the sums of it.

    Args:
        scan: as the kernels read it.
        follows: whether b and c follow dt in memory.
        blocks: of channels.
        parts: of a sequence.
    """

    def __init__(self, scan: Scan, follows: bool, blocks: int, parts: int) -> None:
        batch, n_routes, steps, channels = steps_shape(scan)
        self._scan, self._follows = scan, follows
        width, d_state = scan.dt.shape[-1], scan.d_state

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=scan.u.device)

        def of_steps(width: int, blocks: int) -> Tensor:
            return zeros(batch, n_routes, steps, blocks, width)

        whole = width + 2 * d_state if follows else width
        owners = batch, n_routes, scan.n_sequences * parts
        parameters = {"dt_weight": scan.dt_weight, "a": scan.a.mT, "skip": scan.skip, "dt_bias": scan.dt_bias}
        self.tensors: dict[str, Tensor | None] = {
            "grad_u": of_steps(channels, 1),
            "grad_dt": of_steps(whole, 1 if scan.dt_weight is None else blocks),
            "grad_b": None if follows else of_steps(d_state, blocks),
            "grad_c": None if follows else of_steps(d_state, blocks),
            **{f"grad_{n}": None if x is None else zeros(*owners, *x.shape[1:]) for n, x in parameters.items()},
        }

    def sums(self) -> dict[str, Tensor | None]:
        """The gradients, float32."""
        scan, found = self._scan, dict(self.tensors)
        for name, x in self.tensors.items():
            if x is None:
                continue
            if name in ("grad_u", "grad_dt", "grad_b", "grad_c"):
                maps = to_pixels(x.sum(3), scan)
                found[name] = merged(maps, scan) if name == "grad_u" else maps.transpose(1, 2)
            else:
                found[name] = x.sum((0, 2))
        of_a = found["grad_a"]
        assert of_a is not None
        return {**found, "grad_a": of_a.mT}
