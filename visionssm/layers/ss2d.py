"""SS2D: the selective scan of a feature map along several routes (VMamba, arXiv 2401.10166)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels import LowRank, routes, selective_scan
from visionssm.layers.conv import MapConv2d, activated
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import affine, linear

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


def default_dt_rank(dim: int) -> int:
    """⌈dim / 16⌉, the rank of the step projection in every published vision model."""
    return math.ceil(dim / 16)


@torch.no_grad()
def init_dt_bias_(bias: Tensor) -> Tensor:
    """Fill in place with softplus⁻¹ of steps drawn log-uniformly from [1e-3, 1e-1] (Gu & Dao 2023, section 3.6)."""
    log_step = torch.empty_like(bias, dtype=torch.float32).uniform_(math.log(DT_MIN), math.log(DT_MAX))
    step = log_step.exp().clamp(min=DT_FLOOR)
    return bias.copy_(step + torch.log(-torch.expm1(-step)))


@leaf_module  # the input checks branch on sizes
class RouteScan(nn.Module):
    """Parameters of a selective scan along K routes: each route has projections, steps, state matrix and skip.

    Names and shapes are those of the published checkpoints. The projections to dt, B and C are point-wise, so they
    are one matrix product in pixel order, before the scan.

    Args:
        dim: D, channels that are scanned.
        d_state: N.
        dt_rank: R, rank of the step projection.
        n_routes: K.
    """

    def __init__(self, dim: int, d_state: int, dt_rank: int, n_routes: int, **factory: Any) -> None:
        super().__init__()
        self.dim, self.d_state, self.dt_rank, self.n_routes = dim, d_state, dt_rank, n_routes
        self.x_proj_weight = nn.Parameter(torch.empty(n_routes, dt_rank + 2 * d_state, dim, **factory))
        self.dt_projs_weight = nn.Parameter(torch.empty(n_routes, dim, dt_rank, **factory))
        self.dt_projs_bias = nn.Parameter(torch.empty(n_routes, dim, **factory))
        self.A_logs = nn.Parameter(torch.empty(n_routes * dim, d_state, **factory))
        self.Ds = nn.Parameter(torch.empty(n_routes * dim, **factory))
        self.init_scan()

    @torch.no_grad()
    def init_scan(self) -> None:
        """The published initialisation: A = −(1 … N), D = 1, log-uniform steps."""
        self.x_proj_weight.uniform_(-(self.dim**-0.5), self.dim**-0.5)  # nn.Linear's default
        self.dt_projs_weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
        init_dt_bias_(self.dt_projs_bias)
        single = torch.promote_types(self.A_logs.dtype, torch.float32)
        rates = torch.arange(1, self.d_state + 1, dtype=single, device=self.A_logs.device)
        self.A_logs.copy_(rates.log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)

    def scan(self, u: Tensor, order: Tensor) -> Tensor:
        """Scan (B, H, W, D) along `order` (K, S, T); returns the merged map (B, H, W, D)."""
        pixels = u.flatten(1, 2)
        y, _ = self.scan_pixels(pixels, self.project(pixels), order)
        return y.view(u.shape)

    def project(self, u: Tensor) -> Tensor:
        """dt, B and C of every pixel and route, side by side: (B, L, D) to (B, L, K, R + 2N)."""
        return affine(u, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (self.n_routes, -1))

    def step_bias(self) -> Tensor:
        """What the scan adds to the steps before softplus: (K, D)."""
        return self.dt_projs_bias

    def scan_pixels(
        self,
        u: Tensor,
        projected: Tensor,
        order: Tensor,
        initial_state: Tensor | None = None,
        *,
        merge: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Scan (B, L, D) with what `project` gave for it; returns the merged map and the final state.

        Without `merge`, a map for each route, (B, K, L, D), in place of their sum.
        """
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        at_least_float32 = torch.promote_types(self.A_logs.dtype, torch.float32)
        y = selective_scan(
            u,
            LowRank(dt, self.dt_projs_weight.transpose(1, 2)),
            -torch.exp(self.A_logs.to(at_least_float32)).view(self.n_routes, self.dim, self.d_state),
            b,
            c,
            d=self.Ds.view(self.n_routes, self.dim),
            dt_bias=self.step_bias(),
            order=order,
            initial_state=initial_state,
            merge=merge,
            return_final_state=True,
        )
        assert isinstance(y, tuple)
        return y


class SS2D(RouteScan):
    """VMamba's mixer without a gate: projection, depth-wise convolution, four-route scan, norm, projection.

    Args:
        dim: C, channels of the map.
        ssm_ratio: D = ssm_ratio·C channels are scanned.
        d_state: N.
        dt_rank: R; None for ⌈C/16⌉.
        conv_bias: bias of the depth-wise convolution.
        n_routes: K; with another number than four, `mix` must be replaced.
    """

    in_copies = 1  # how many D-wide parts in_proj makes
    activation: ClassVar[staticmethod[[Tensor], Tensor]] = staticmethod(F.silu)  # after the convolution, and in a gate

    def __init__(
        self,
        dim: int,
        *,
        ssm_ratio: float = 1.0,
        d_state: int = 1,
        dt_rank: int | None = None,
        conv_bias: bool = False,
        n_routes: int = 4,
        **factory: Any,
    ) -> None:
        inner = int(ssm_ratio * dim)
        super().__init__(inner, d_state, dt_rank or default_dt_rank(dim), n_routes, **factory)
        self.in_proj = nn.Linear(dim, self.in_copies * inner, bias=False, **factory)
        self.conv2d = MapConv2d(inner, inner, kernel_size=3, padding=1, groups=inner, bias=conv_bias, **factory)
        self.out_norm = nn.LayerNorm(inner, **factory)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve, scan along the four routes and normalise a (B, H, W, D) map."""
        u = activated(self.conv2d, x, self.activation)
        return self.out_norm(self.scan(u, routes.ss2d(u.shape[1], u.shape[2], device=u.device)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return linear(self.out_proj, self.mix(linear(self.in_proj, x)))


class GatedSS2D(SS2D):
    """VMamba's first mixer: as `SS2D`, with a gate branch that multiplies the normalised scan, SiLU(z)."""

    in_copies = 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = linear(self.in_proj, x).chunk(2, dim=-1)
        return linear(self.out_proj, self.mix(x) * self.activation(z))
