"""The published CUDA scan, where its extension `selective_scan_cuda` can be imported: the kernel alone, and its copies.

The kernel wants channels first, a copy of the map per route and expanded steps: (B, K·D, T) tensors. A network pays
for both, so a fair comparison adds what is around it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from visionssm.benchmarks.kernels import Inputs
from visionssm.kernels.selective_scan.reference import along_routes

Call = Callable[[], object]


@dataclass(frozen=True)
class Published:
    """Calls of the kernel on tensors in its layout, and of a forward pass's copies around it (None: no copies)."""

    forward: Call
    backward: Call
    copies: Call | None


def published_kernel(x: Inputs) -> Published | None:
    """The published kernel on the scan's inputs; None where its extension is not installed."""
    try:
        extension = importlib.import_module("selective_scan_cuda")
    except ImportError:
        return None
    routes = x.order.shape[0]
    u, low, b, c = (
        along_routes(t, x.order).squeeze(2).transpose(2, 3)  # (B, K, ·, T)
        for t in (x.u[:, :, None].expand(-1, -1, routes, -1), x.low, x.b, x.c)
    )
    dt = torch.einsum("bkrt,krd->bkdt", low, x.weight.to(low.dtype)).flatten(1, 2).contiguous()
    u, a, skip, bias = u.flatten(1, 2).contiguous(), x.a.flatten(0, 1).contiguous(), x.d.flatten(), x.bias.flatten()
    tensors = (u, dt, a, b.contiguous(), c.contiguous(), skip, None, bias)
    out, saved, *_ = extension.fwd(*tensors, True)
    grad = torch.randn_like(out)
    return Published(
        forward=lambda: extension.fwd(*tensors, True),
        backward=lambda: extension.bwd(*tensors, grad, saved, None, None, True, False),
        copies=copies(x),
    )


def copies(x: Inputs) -> Call | None:
    """A map per route, expanded steps, the sum over the routes: views and one copy each; None unless ss2d, square."""
    batch, pixels, _ = x.u.shape
    side, routes = int(pixels**0.5), x.order.shape[0]
    if routes != 4 or side * side != pixels:
        return None

    def around() -> tuple[torch.Tensor, torch.Tensor]:
        image = x.u.view(batch, side, side, -1).permute(0, 3, 1, 2)
        ahead = torch.stack([image.flatten(2), image.mT.flatten(2)], 1)
        maps = torch.cat([ahead, ahead.flip(-1)], 1)
        dt = torch.einsum("bkrl,krd->bkdl", x.low.permute(0, 2, 3, 1).contiguous(), x.weight.to(x.low.dtype))
        both = maps[:, :2] + maps[:, 2:].flip(-1)
        return both[:, 0] + both[:, 1].unflatten(-1, (side, side)).mT.flatten(2), dt

    return around
