"""A small call of every operator, for tests that ask the same of all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from visionssm.kernels import (
    LowRank,
    deformable_sum,
    gated_linear_attention,
    linear_recurrence,
    neighbour_table,
    non_causal_ssd,
    plstm2d,
    plstm2d_four_directions,
    routes,
    scan_states,
    selective_scan,
    sparse_conv,
    ssd,
    ttt_linear,
)
from visionssm.kernels.plstm2d import propagation_gates

Call = Callable[..., Tensor | tuple[Tensor, ...]]


def normal(*shape: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").requires_grad_()


def _scan(device: str = "cpu", **options: bool) -> tuple[list[Tensor], Call]:
    table = routes.ss2d(5, 4, device=device)
    inputs = [normal(2, 20, 6), normal(2, 20, 4, 2), normal(4, 2, 6), normal(4, 6, 3), normal(2, 20, 4, 3)]

    def call(u: Tensor, low: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return selective_scan(u, LowRank(low, weight), -a.exp(), b, b.sin(), order=table.to(u.device), **options)

    return inputs, call


def _of_states(device: str = "cpu") -> tuple[list[Tensor], Call]:
    table = routes.raster(5, 4, device=device)
    inputs = [normal(2, 20, 6), normal(2, 20, 1, 6), normal(1, 6, 3), normal(2, 20, 1, 3)]
    return inputs, lambda u, dt, a, b: scan_states(u, dt, -a.exp(), b, order=table.to(u.device))


def _ssd() -> tuple[list[Tensor], Call]:
    inputs = [normal(2, 20, 3, 4), normal(2, 20, 3), normal(3), normal(2, 20, 1, 5)]
    return inputs, lambda x, dt, a, b: ssd(x, dt, -a.exp(), b, b.sin(), softplus=True, return_final_state=True)


def _non_causal() -> tuple[list[Tensor], Call]:
    return [normal(2, 20, 3, 4), normal(2, 20, 3), normal(2, 20, 5)], lambda x, m, b: non_causal_ssd(x, m, b, b.sin())


def _deformable() -> tuple[list[Tensor], Call]:
    inputs = [normal(1, 16, 5, 2, 16), normal(1, 16, 5, 2, 9, 2), normal(1, 16, 5, 2, 9)]
    return inputs, deformable_sum


def _sparse() -> tuple[list[Tensor], Call]:
    pixels = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 2], [0, 3, 3], [1, 0, 2]], device="cpu")
    table = neighbour_table(pixels, (4, 4))
    inputs = [normal(6, 3), normal(9, 3, 4), normal(4)]
    return inputs, lambda x, weight, bias: sparse_conv(x, weight, table.to(x.device), bias)


def _recurrence() -> tuple[list[Tensor], Call]:
    return [normal(1, 6), normal(20, 6)], lambda a, b: linear_recurrence(a.sigmoid(), b, dim=0)


def _gated() -> tuple[list[Tensor], Call]:
    inputs = [normal(2, 20, 3, 4), normal(2, 20, 3, 4), normal(2, 20, 3, 5), normal(2, 20, 3, 4), normal(3, 4)]

    def call(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> tuple[Tensor, Tensor]:
        log_decay = -decay.exp()
        past = gated_linear_attention(q / 4, k, v, log_decay, bonus)
        return past, gated_linear_attention(k / 4, q, v, log_decay, reverse=True)

    return inputs, call


def _test_time_training() -> tuple[list[Tensor], Call]:
    sizes = [(2, 10, 2, 3)] * 3 + [(2, 10, 2), (4,), (2, 3, 3), (2, 3), (2, 3), (2, 3)]

    def call(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        return ttt_linear(q, k.sin(), v, rate.sigmoid() / 3, scale.exp(), *rest)

    return [normal(*size) for size in sizes], call


def _plstm(directions: int) -> tuple[list[Tensor], Call]:
    lead = (1, 4, 3) if directions == 1 else (1, 4, 4, 3)
    share, scalar = normal(*lead), normal(*lead, 1, 1, 1)
    qkv = [normal(1, 4, 3, width, 1) for width in (2, 2, 5)]

    def call(q: Tensor, k: Tensor, v: Tensor, share: Tensor, scalar: Tensor) -> Tensor:
        gates = propagation_gates(share.sigmoid(), scalar, scalar[..., 0].sigmoid(), scalar)
        one = plstm2d if directions == 1 else plstm2d_four_directions
        out = one(q, k, v, gates)
        assert isinstance(out, Tensor)
        return out

    return [*qkv, share, scalar], call


OPERATORS = {
    "selective_scan": lambda device="cpu": _scan(device, return_final_state=True),
    "selective_scan, a map per route": lambda: _scan(merge=False),
    "scan_states": _of_states,
    "ssd": _ssd,
    "non_causal_ssd": _non_causal,
    "deformable_sum": _deformable,
    "sparse_conv": _sparse,
    "gated_linear_attention": _gated,
    "ttt_linear": _test_time_training,
    "linear_recurrence": _recurrence,
    "plstm2d": lambda: _plstm(1),
    "plstm2d_four_directions": lambda: _plstm(4),
}
