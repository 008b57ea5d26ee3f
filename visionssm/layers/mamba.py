"""Mamba's mixer over a sequence of tokens, one-directional (arXiv 2312.00752) and bidirectional (arXiv 2401.09417).

Tokens are (B, T, C), channels last, and are never reversed in memory: the backward direction walks the same tensor
by a reversed route, and its convolution looks at the tokens after instead of those before.
"""

from __future__ import annotations

import functools
import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels import LowRank, routes, selective_scan
from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.causal_conv import causal_conv, causal_conv_silu
from visionssm.layers.linear import linear, plain
from visionssm.layers.ss2d import RouteScan, default_dt_rank

MOST_SIDE_BY_SIDE = 1 << 19  # floats of both directions; more do not stay in a cache of a core


class TokenScan(RouteScan):
    """Depth-wise causal convolution, SiLU and selective scan of (B, T, D) tokens, from the first to the last.

    Args:
        dim: D, channels that are scanned.
        d_state: N.
        dt_rank: R, rank of the step projection.
        d_conv: tokens under the convolution, the current one included.
    """

    backwards: ClassVar[bool] = False  # whether a token sees those after it

    def __init__(self, dim: int, *, d_state: int, dt_rank: int, d_conv: int = 4, **factory: Any) -> None:
        super().__init__(dim, d_state, dt_rank, n_routes=1, **factory)
        self.conv1d = nn.Conv1d(dim, dim, d_conv, groups=dim, **factory)

    def convolve(self, row: Tensor) -> Tensor:
        """The convolution of a map of one row, (B, 1, T, D): token t sees the tokens up to t."""
        return causal_conv(row.squeeze(1), *self._taps(), backwards=self.backwards).unsqueeze(1)

    def activate(self, row: Tensor) -> Tensor:
        """SiLU of the convolution: what is scanned."""
        return causal_conv_silu(row.squeeze(1), *self._taps(), backwards=self.backwards).unsqueeze(1)

    def route(self, row: Tensor) -> Tensor:
        """The order in which tokens are scanned."""
        return routes.raster(1, row.shape[2], device=row.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same shape."""
        row = x.unsqueeze(1)  # a map of one row, (B, 1, T, D)
        return self.scan(self.activate(row), self.route(row)).squeeze(1)

    def _taps(self) -> tuple[Tensor, Tensor]:
        """(D, taps) and (D,) of the convolution."""
        assert self.conv1d.bias is not None
        return self.conv1d.weight.squeeze(1), self.conv1d.bias


class BackwardTokenScan(TokenScan):
    """`TokenScan` in reversed time, from the last token to the first: token t sees the tokens from t on."""

    backwards = True

    def route(self, row: Tensor) -> Tensor:
        """The order in which tokens are scanned."""
        return routes.reversed_raster(1, row.shape[2], device=row.device)


class Mamba(nn.Module):
    """Projection, `TokenScan` with a gate SiLU(z) beside it, projection.

    Args:
        dim: C, channels of a token.
        expand: D = expand·C channels are scanned.
        d_state: N.
        d_conv: tokens under the convolution.
        dt_rank: R; None for ⌈C/16⌉.
    """

    def __init__(
        self,
        dim: int,
        *,
        expand: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        dt_rank: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        inner = expand * dim
        self._scan_options = {
            "dim": inner,
            "d_state": d_state,
            "d_conv": d_conv,
            "dt_rank": dt_rank or default_dt_rank(dim),
            **factory,
        }
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **factory)
        self.ahead = TokenScan(**self._scan_options)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)

    def scan(self, x: Tensor) -> Tensor:
        """The scanned branch: (B, T, D) to the same shape."""
        return self.ahead(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        x, z = linear(self.in_proj, x).chunk(2, dim=-1)
        return linear(self.out_proj, self.scan(x) * F.silu(z))


@functools.lru_cache(64)
def _both_ways(tokens: int, device: torch.device) -> Tensor:
    """From the first token to the last, and from the last to the first: (2, 1, T)."""
    with torch.inference_mode(False):
        return torch.cat([routes.raster(1, tokens, device=device), routes.reversed_raster(1, tokens, device=device)])


class BidirectionalMamba(Mamba):
    """`Mamba` with a second scan from the last token to the first, of parameters of its own, added to the first one."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.back = BackwardTokenScan(**self._scan_options)

    def scan(self, x: Tensor) -> Tensor:
        """The scanned branch: (B, T, D) to the same shape."""
        if self._joined(x):
            return self._scan_side_by_side(x)
        return self.ahead(x) + self.back(x)

    def _joined(self, x: Tensor) -> bool:
        """Whether one call may stand for both scans: in inference on CPUs, of few tokens, and nobody looks at them."""
        return (
            type(x) is Tensor  # of another type are the symbols of a graph's tracer
            and 0 < 2 * x.numel() <= MOST_SIDE_BY_SIDE
            and plain(self.ahead, TokenScan)
            and plain(self.back, BackwardTokenScan)
            and not torch.is_grad_enabled()
            and runs_compiled(x, self.ahead.conv1d.weight)
        )

    def _scan_side_by_side(self, x: Tensor) -> Tensor:
        """The directions as one scan of 2·D channels in two groups, along a route each: half as many calls."""
        pair = (self.ahead, self.back)
        u = torch.cat([scan.activate(x.unsqueeze(1)).squeeze(1) for scan in pair], dim=-1)  # (B, T, 2·D)
        batch, tokens, _ = u.shape
        dim, d_state, dt_rank = self.ahead.dim, self.ahead.d_state, self.ahead.dt_rank
        weights = torch.cat([scan.x_proj_weight for scan in pair]).mT
        projected = torch.bmm(u.view(-1, 2, dim).transpose(0, 1), weights)  # (2, B·T, R + 2N)
        projected = projected.view(2, batch, tokens, -1).permute(1, 2, 0, 3)
        dt, b, c = projected.split([dt_rank, d_state, d_state], dim=-1)
        y = selective_scan(
            u,
            LowRank(dt, torch.cat([scan.dt_projs_weight for scan in pair]).mT),
            -torch.exp(torch.cat([scan.A_logs for scan in pair])).view(2, dim, d_state),
            b,
            c,
            d=torch.cat([scan.Ds for scan in pair]).view(2, dim),
            dt_bias=torch.cat([scan.dt_projs_bias for scan in pair]),
            order=_both_ways(tokens, u.device),
        )
        assert isinstance(y, Tensor)
        return y[..., :dim] + y[..., dim:]


# Published name of a scan's parameter: our name, and whether our tensor has a leading axis of one route.
_SCAN_KEYS = {
    "A_log": ("A_logs", False),
    "D": ("Ds", False),
    "conv1d.weight": ("conv1d.weight", False),
    "conv1d.bias": ("conv1d.bias", False),
    "x_proj.weight": ("x_proj_weight", True),
    "dt_proj.weight": ("dt_projs_weight", True),
    "dt_proj.bias": ("dt_projs_bias", True),
}


def convert_mamba_key(name: str, value: Tensor) -> tuple[str, Tensor]:
    """An entry of a published Mamba mixer under our name and in our shape; any other entry as it is.

    `conv1d.weight` becomes `ahead.conv1d.weight`; `A_b_log`, of the backward direction, `back.A_logs`; and `A_s_log`,
    of SegMamba's scan across slices, `across.A_logs`.
    """
    own = r"(?<!ahead\.)(?<!back\.)(?<!across\.)"  # in a file of ours the entry has its name already
    match = re.fullmatch(rf"((?:.*\.)?){own}(A|D|conv1d|x_proj|dt_proj)(_[bs])?((?:_log|\.weight|\.bias)?)", name)
    if match is None or match[2] + match[4] not in _SCAN_KEYS:
        return name, value
    path, part, direction, kind = match.groups()
    ours, has_route_axis = _SCAN_KEYS[part + kind]
    scan = {None: "ahead", "_b": "back", "_s": "across"}[direction]
    return f"{path}{scan}.{ours}", value.unsqueeze(0) if has_route_axis else value
