"""Run the Triton linear recurrence in Triton's interpreter and print its errors: `python -m tests.kernels.…`.

Triton decides at its first import whether kernels are interpreted, so a process of their own runs these cases;
`test_linear_recurrence_gpu.py` starts it once and checks every case's errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from visionssm.kernels import linear_recurrence, use_backend

SMALL_TILE = (4, 8)  # crosses chunk and block borders in short sequences, and the interpreter's scan is slow


@dataclass(frozen=True)
class Case:
    """One problem: the shapes of a and b, the axis of time."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    dim: int = 1
    dtype: torch.dtype = torch.complex64
    reverse: bool = False
    state: bool = True
    real_tile: bool = False


_CASES = {
    "one_number": Case((1,), (1,), dim=0),
    "constant": Case((5,), (2, 7, 5)),
    "varying": Case((2, 7, 5), (2, 7, 5)),
    "shared_by_columns": Case((1, 11, 1), (2, 11, 3)),
    "two_blocks": Case((10,), (1, 5, 10)),
    "no_state": Case((3, 2), (2, 9, 3, 2), state=False),
    "shared_by_some": Case((3, 1), (1, 5, 3, 2)),
    "varying_over_batch": Case((2, 1, 1), (2, 5, 4)),
    "time_last": Case((2, 9), (2, 2, 9), dim=2),
    "time_first": Case((1,), (6, 2, 3), dim=0),
    "real_tile": Case((3,), (1, 40, 3), real_tile=True),
    "nothing": Case((1,), (0, 4, 3)),
}
BOTH_WAYS = ("constant", "varying", "shared_by_columns", "two_blocks")
CASES = {
    f"{name}_{str(dtype).removeprefix('torch.')}_{'backwards' if reverse else 'forwards'}": Case(
        case.a, case.b, case.dim, dtype, reverse, case.state, case.real_tile
    )
    for name, case in _CASES.items()
    for dtype in (torch.float32, torch.complex64)
    for reverse in ((False, True) if name in BOTH_WAYS else (False,))
}


def values_and_gradients(case: Case, backend: str, wide: bool) -> list[Tensor]:
    """The states, and the gradients of a, b and the state; their gradients in turn, which run the adjoint's adjoint."""
    generator = torch.Generator().manual_seed(list(CASES.values()).index(case))
    without_time = case.b[: case.dim] + case.b[case.dim + 1 :]
    leaves = []
    for shape in (case.a, case.b, without_time)[: 3 if case.state else 2]:
        x = torch.randn(shape, dtype=case.dtype, generator=generator)
        leaves.append(x.to(torch.promote_types(x.dtype, torch.float64)) if wide else x)
    leaves[0] = 0.9 * leaves[0] / leaves[0].abs()
    leaves = [x.requires_grad_() for x in leaves]
    with use_backend(backend):
        h = linear_recurrence(
            leaves[0], leaves[1], dim=case.dim, initial_state=leaves[2] if case.state else None, reverse=case.reverse
        )
        total = (h * h.detach().cos()).real.sum() + h.abs().square().sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.abs().square().sum() for x in first), leaves)  # type: ignore[arg-type]
    return [h.detach(), *(x.detach() for x in first), *second]


def error(case: Case) -> float:
    """Largest error of the Triton kernel relative to the largest value in float64; NaN counts as infinite."""
    from visionssm.kernels.linear_recurrence import gpu

    worst, real = 0.0, (gpu.STEPS, gpu.COLUMNS)
    gpu.STEPS, gpu.COLUMNS = real if case.real_tile else SMALL_TILE
    try:
        found = values_and_gradients(case, "triton", wide=False)
    finally:
        gpu.STEPS, gpu.COLUMNS = real
    for got, want in zip(found, values_and_gradients(case, "reference", wide=True), strict=True):
        if want.numel():
            of_this = ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
            worst = max(worst, of_this if of_this == of_this else float("inf"))
    return worst


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: error(case) for name, case in CASES.items()}))
