"""Run the Triton selective scan in Triton's interpreter and print its errors: `python -m tests.kernels.…` as a child.

Triton decides at its first import whether kernels are interpreted, so a process of their own runs these cases;
`test_selective_scan_gpu.py` starts it once and checks every case's errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionssm.kernels import routes
from visionssm.kernels.selective_scan.reference import selective_scan_reference
from visionssm.kernels.selective_scan.scan import Scan

SMALL_TILE = (4, 8)  # crosses chunk and block borders in tiny maps, and the interpreter's scan is slow
RESULTS = ("y", "final_state", "u", "dt", "dt_weight", "a", "b", "c", "d", "dt_bias", "initial_state")


def _raster(height: int, width: int) -> Tensor:
    return routes.raster(height, width)


def _twice_and_never(height: int, width: int) -> Tensor:
    """Two routes that visit some pixels several times, some never, with steps outside the map."""
    return torch.tensor([[[0, 0, 1, -1, 1, 2]], [[2, 1, 0, 0, -1, -1]]], dtype=torch.int32)


def _windows(height: int, width: int) -> Tensor:
    return torch.cat([routes.window(height, width, 2), routes.backwards(routes.window(height, width, 2))])


def _no_steps(height: int, width: int) -> Tensor:
    return torch.empty(2, 1, 0, dtype=torch.int32)


@dataclass(frozen=True)
class Case:
    """One problem; `groups`: route k scans its own D/K channels; `plain`: no d, bias, initial state or final grad.

    `parts`: of every sequence. `no_pixels`: the kernels get numbers that are no pixels where the definition gets −1.
    """

    order: Callable[[int, int], Tensor]
    size: tuple[int, int] = (3, 3)
    batch: int = 2
    channels: int = 5
    d_state: int = 3
    rank: int | None = None
    groups: bool = False
    merge: bool = True
    plain: bool = False
    dtype: torch.dtype = torch.float32
    real_tile: bool = False
    views: bool = False
    wide_offsets: bool = False
    step_scale: float = 1.0
    no_pixels: bool = False
    parts: int = 1


CASES = {
    "one_pixel": Case(_raster, size=(1, 1), d_state=1),
    "one_state_dense": Case(routes.ss2d, channels=16, d_state=1),
    "one_state_low_rank": Case(routes.ss2d, batch=1, channels=16, d_state=1, rank=3),
    "odd_states_low_rank": Case(routes.ss2d, batch=1, channels=5, d_state=3, rank=2),
    "plain": Case(routes.bidirectional, channels=5, plain=True),
    "sixteen_states": Case(_raster, size=(2, 3), batch=1, channels=17, d_state=16, rank=1),
    "unmerged": Case(routes.bidirectional, rank=2, merge=False),
    "groups": Case(routes.bidirectional, channels=16, rank=2, groups=True),
    "groups_unmerged": Case(routes.bidirectional, channels=6, groups=True, merge=False),
    "windows_with_padding": Case(_windows, size=(3, 3), batch=1, rank=2),
    "atrous_with_padding": Case(lambda h, w: routes.atrous(h, w, 2), size=(3, 3), d_state=1),
    "repeated_pixels": Case(_twice_and_never, size=(2, 2), rank=2),
    "no_steps": Case(_no_steps),
    "no_batch": Case(_raster, batch=0),
    "strided_views": Case(routes.bidirectional, rank=2, views=True),
    "wide_offsets": Case(_raster, size=(1, 1), wide_offsets=True),
    "large_steps": Case(_raster, rank=2, step_scale=40.0),
    "tiny_steps": Case(_raster, d_state=1, step_scale=-12.0),
    "bfloat16": Case(routes.bidirectional, rank=2, dtype=torch.bfloat16),
    "float16": Case(routes.bidirectional, dtype=torch.float16),
    "real_tile_one_state": Case(_raster, size=(3, 7), batch=1, channels=33, d_state=1, rank=2, real_tile=True),
    "real_tile_many_states": Case(_raster, size=(3, 23), batch=1, channels=4, d_state=5, real_tile=True),
    "two_parts": Case(routes.ss2d, batch=1, channels=9, d_state=2, rank=2, parts=2),
    "three_parts_plain": Case(routes.bidirectional, channels=5, d_state=1, plain=True, parts=3),
    "parts_of_groups_unmerged": Case(routes.bidirectional, batch=1, channels=6, groups=True, merge=False, parts=2),
    "parts_with_padding": Case(_twice_and_never, size=(2, 2), rank=2, parts=2),
    "parts_of_windows": Case(lambda h, w: routes.window(h, w, 3), size=(3, 6), batch=1, rank=2, parts=3),
    "parts_bfloat16": Case(routes.bidirectional, batch=1, rank=2, dtype=torch.bfloat16, parts=3),
    "real_tile_parts_one_state": Case(_raster, size=(3, 16), batch=1, channels=33, d_state=1, real_tile=True, parts=3),
    "real_tile_parts_many_states": Case(_raster, size=(3, 23), batch=1, channels=4, d_state=5, real_tile=True, parts=2),
    "numbers_of_no_pixels": Case(_twice_and_never, size=(2, 2), rank=2, no_pixels=True),
    "one_projection_in_parts": Case(routes.bidirectional, batch=1, channels=9, d_state=2, rank=2, views=True, parts=2),
    "one_projection_of_groups": Case(
        _windows, channels=8, d_state=1, rank=3, views=True, groups=True, merge=False, dtype=torch.bfloat16
    ),
}


def make_inputs(case: Case) -> tuple[Any, Tensor]:
    """u, dt, dt_weight, a, b, c, d, dt_bias, initial_state of a case (a number of its own seeds them); the table."""
    generator = torch.Generator().manual_seed(list(CASES.values()).index(case))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    order = case.order(*case.size)
    n_routes, n_sequences, _ = order.shape
    pixels = case.size[0] * case.size[1]
    per_route = case.channels // n_routes if case.groups else case.channels
    width = per_route if case.rank is None else case.rank
    u = normal(case.batch, pixels, case.channels).to(case.dtype)
    projected = normal(case.batch, pixels, n_routes, width + 2 * case.d_state).to(case.dtype)
    dt, b, c = projected.split([width, case.d_state, case.d_state], -1)
    if not case.views:
        dt, b, c = dt.contiguous(), b.contiguous(), c.contiguous()
    else:
        u = torch.cat([u, u], -1)[..., case.channels :]
    if case.wide_offsets:  # a map of one pixel may claim any distance to the next
        u = u.as_strided(u.shape, (u.stride(0), 2**31, 1))
    weight = None if case.rank is None else normal(n_routes, case.rank, per_route)
    a = -normal(n_routes, per_route, case.d_state).exp()
    bias = normal(n_routes, per_route)
    bias = bias + case.step_scale if case.step_scale != 1.0 else bias
    state = normal(case.batch, n_routes, n_sequences, per_route, case.d_state)
    optional = [None] * 3 if case.plain else [normal(n_routes, per_route), bias, state]
    return [u, dt, weight, a, b, c, *optional], order


def _cotangents(y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed gradients of the two results."""
    return tuple(
        torch.linspace(-1, 1, x.numel(), dtype=torch.float64).cos().view_as(x).to(x.dtype) * (1 + i)
        for i, x in enumerate((y, state))
    )  # type: ignore[return-value]


def expected(case: Case) -> dict[str, Tensor]:
    """Values and gradients of the definition in float64."""
    inputs, order = make_inputs(case)
    leaves = [None if x is None else x.double().requires_grad_() for x in inputs]
    y, state = selective_scan_reference(Scan(*leaves[:-1], order, leaves[-1]), case.merge)  # type: ignore[arg-type]
    grad_y, grad_state = _cotangents(y, state)
    total = (y * grad_y.to(case.dtype)).sum() + (0.0 if case.plain else (state * grad_state).sum())
    given = [x for x in leaves if x is not None]
    found = iter(torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True))
    grads = [None if x is None else next(found) for x in leaves]
    return {n: x.detach() for n, x in zip(RESULTS, (y, state, *grads), strict=True) if x is not None}


def _in_parts(count: int, n_steps: int, chunk: int) -> Any:
    """At most `count` parts of whole chunks."""
    from visionssm.kernels.selective_scan.gpu_arguments import Parts

    steps = max(1, -(-n_steps // chunk // count)) * chunk
    return Parts(max(1, -(-n_steps // steps)), steps)


def actual(case: Case) -> dict[str, Tensor]:
    """Values and gradients of the Triton kernels."""
    from visionssm.kernels.selective_scan import gpu
    from visionssm.kernels.selective_scan.gpu_arguments import forget_plans

    forget_plans()
    real = gpu.forward_tile, gpu.backward_tile, gpu._parts, gpu.saved_apart
    gpu._parts = lambda scan: _in_parts(case.parts, scan.n_steps, gpu.saved_apart(scan.d_state))
    if not case.real_tile:
        gpu.forward_tile = gpu.backward_tile = lambda *sizes: gpu.Tile(*SMALL_TILE, num_warps=1)
        gpu.saved_apart = lambda d_state: SMALL_TILE[0] * (1 if d_state % 2 else 2)
    try:
        inputs, order = make_inputs(case)
        if case.no_pixels:
            wrong = torch.tensor([4, 2**31 - 1, -2, -(2**31), 1000], dtype=torch.int32).repeat(order.numel())
            order = torch.where(order < 0, wrong[: order.numel()].view_as(order), order)
        scan = Scan(*inputs[:-1], order, inputs[-1])
        y, state, saved = gpu.forward(scan, merge=case.merge, save_states=True)
        grad_y, grad_state = _cotangents(y, state)
        grad_final = None if case.plain else grad_state
        grads = gpu.backward(grad_y, grad_final, scan, saved, merge=case.merge)
    finally:
        gpu.forward_tile, gpu.backward_tile, gpu._parts, gpu.saved_apart = real
        forget_plans()
    found = zip(RESULTS, (y, state, *grads), strict=True)
    for name, x in zip(RESULTS[2:], inputs, strict=True):
        grad = grads[RESULTS.index(name) - 2]
        assert (x is None) == (grad is None), name
        assert grad is None or (grad.shape == x.shape and grad.dtype == x.dtype), name
    return {name: x for name, x in found if x is not None}


def errors(case: Case) -> dict[str, float]:
    """Largest error of each result, relative to the largest value of the definition; NaN counts as infinite."""
    found, wanted = actual(case), expected(case)
    assert found.keys() == wanted.keys()
    result = {}
    for name, want in wanted.items():
        error = (found[name].double() - want).abs()
        worst = error.max().item() / max(want.abs().max().item(), 1e-30) if want.numel() else 0.0
        result[name] = worst if worst == worst else float("inf")
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: errors(case) for name, case in CASES.items()}))
