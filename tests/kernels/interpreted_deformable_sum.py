"""Run the Triton deformable sum in Triton's interpreter and print its errors: `python -m tests.kernels.…`.

Triton decides at its first import whether kernels are interpreted, so a process of their own runs these cases;
`test_deformable_sum_gpu.py` starts it once and checks every case's errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from visionssm.kernels import deformable_sum, use_backend


@dataclass(frozen=True)
class Case:
    """One problem: (B, H, W, G, D), how far offsets point, and whether offsets and masks are views of one tensor."""

    shape: tuple[int, int, int, int, int]
    spread: float = 1.0
    scale: float = 1.0
    dtype: torch.dtype = torch.float32
    views: bool = False


CASES = {
    "one_pixel": Case((1, 1, 1, 1, 1)),
    "nano": Case((1, 5, 7, 1, 16)),
    "groups_and_images": Case((2, 4, 5, 3, 32)),
    "ragged_channels": Case((1, 3, 6, 2, 21)),
    "several_blocks_of_channels": Case((1, 2, 3, 1, 150)),
    "several_blocks_of_pixels": Case((1, 12, 13, 1, 16), scale=0.5),
    "far_away": Case((2, 3, 4, 2, 16), spread=1e10),
    "half_outside": Case((1, 6, 5, 1, 16), spread=6.0, scale=0.5),
    "views_of_a_projection": Case((2, 4, 5, 3, 16), views=True),
    "bfloat16": Case((1, 4, 5, 2, 16), dtype=torch.bfloat16),
    "float16": Case((1, 4, 5, 2, 16), dtype=torch.float16),
    "no_pixels": Case((2, 0, 3, 1, 16)),
    "no_channels": Case((1, 2, 3, 1, 0)),
}


def make_inputs(case: Case) -> list[Tensor]:
    """value, offset and mask; offsets are odd sixteenths, so that no position is at the centre of a pixel."""
    generator = torch.Generator().manual_seed(list(CASES.values()).index(case))
    value = torch.randn(case.shape, generator=generator)
    projected = torch.randn(*case.shape[:4], 32, generator=generator)
    offset, mask = projected[..., :18], projected[..., 18:27]
    offset.copy_(((8 * case.spread * offset).round() + 0.5) / 8)
    if not case.views:
        offset, mask = offset.contiguous(), mask.contiguous()
    return [x.to(case.dtype) for x in (value, offset.unflatten(-1, (9, 2)), mask)]


def values_and_gradients(case: Case, backend: str, wide: bool) -> list[Tensor]:
    """y and the gradients of value, offset and mask."""
    leaves = [(x.double() if wide else x).requires_grad_() for x in make_inputs(case)]
    with use_backend(backend):
        y = deformable_sum(*leaves, scale=case.scale)
        weights = ((torch.arange(y.numel()) % 7 - 3) / 4).view_as(y).to(y.dtype)  # which every dtype holds exactly
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


def error(case: Case) -> float:
    """Largest error of the Triton kernel relative to the largest value in float64; NaN counts as infinite."""
    found = values_and_gradients(case, "triton", wide=False)
    worst = 0.0
    # grid_sample takes no empty maps, where there is nothing but the shapes of the gradients and zeros
    wanted = [x * 0 for x in make_inputs(case)] if 0 in case.shape else []
    wanted = [wanted[0], *wanted] if wanted else values_and_gradients(case, "reference", wide=True)
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == case.dtype
        if want.numel():
            of_this = ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
            worst = max(worst, of_this if of_this == of_this else float("inf"))
    return worst


def not_finite() -> bool:
    """Whether positions that are not finite give NaN at their pixel, and nothing elsewhere."""
    case = CASES["nano"]
    value, offset, mask = make_inputs(case)
    with use_backend("triton"):
        wanted = deformable_sum(value, offset, mask)
        offset[0, 2, 3, 0, 5] = torch.tensor([float("nan"), float("inf")])
        leaves = [x.requires_grad_() for x in (value, offset, mask)]
        y = deformable_sum(*leaves)
        grad_value = torch.autograd.grad(y.sum(), leaves)[0]
    bad = torch.zeros(5, 7, dtype=torch.bool)
    bad[2, 3] = True
    y, wanted = y.detach()[0], wanted[0]
    return bool(y[bad].isnan().all() and torch.equal(y[~bad], wanted[~bad]) and grad_value.isfinite().all())


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: error(case) for name, case in CASES.items()} | {"not_finite": float(not_finite())}))
