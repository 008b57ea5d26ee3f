"""HRVMamba's deformable sum: the compiled kernel beside its definition, which is PyTorch's `grid_sample`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from visionssm.benchmarks.timing import medians_in_turn, progress
from visionssm.kernels import deformable_sum, use_backend
from visionssm.kernels.deformable_sum import POINTS

# (H, W, G, D) of the first stage of two sizes, and of the second of one.
SHAPES = {
    "HRVMamba-N 1/4": (56, 56, 1, 16),
    "HRVMamba-N 1/8": (28, 28, 1, 32),
    "HRVMamba-B 1/4": (56, 56, 5, 32),
}


def inputs(shape: tuple[int, int, int, int], batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Value, offset and mask; the last two are views of what one projection gives, with gradients."""
    generator = torch.Generator().manual_seed(0)
    height, width, groups, channels = shape
    value = torch.randn(batch, height, width, groups, channels, generator=generator)
    projected = torch.randn(batch, height, width, -(-3 * POINTS * groups // 8) * 8, generator=generator)
    both = projected[..., : 3 * POINTS * groups].unflatten(-1, (groups, 3 * POINTS))
    offset, mask = both[..., : 2 * POINTS].unflatten(-1, (POINTS, 2)), both[..., 2 * POINTS :]
    return value.requires_grad_(), offset.requires_grad_(), mask.requires_grad_()


def forward(backend: str, tensors: tuple[Tensor, ...]) -> Tensor:
    """y, without gradients."""
    with use_backend(backend), torch.no_grad():
        return deformable_sum(*tensors)


def step(backend: str, tensors: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients of all tensors, after a forward pass."""
    with use_backend(backend):
        return torch.autograd.grad(deformable_sum(*tensors), tensors, grad)


def run(*, batches: tuple[int, ...] = (1, 8), seconds: float = 6.0) -> list[dict[str, Any]]:
    """A row for every shape and batch."""
    small = inputs((8, 8, 1, 16), 1)
    step("cpu", small, torch.ones_like(small[0]))  # compiles the kernels
    rows = []
    for name, shape in SHAPES.items():
        for batch in batches:
            progress(f"deformable sum of {name}, batch {batch} …")
            tensors = inputs(shape, batch)
            grad = torch.randn_like(tensors[0])
            times = medians_in_turn(
                {
                    "kernel": partial(forward, "cpu", tensors),
                    "definition": partial(forward, "reference", tensors),
                    "kernel step": partial(step, "cpu", tensors, grad),
                    "definition step": partial(step, "reference", tensors, grad),
                },
                seconds=seconds,
            )
            rows.append(
                {
                    "map": name,
                    "batch": batch,
                    "forward ms": times["kernel"] * 1e3,
                    "grid_sample / forward": times["definition"] / times["kernel"],
                    "forward and backward ms": times["kernel step"] * 1e3,
                    "grid_sample / forward and backward": times["definition step"] / times["kernel step"],
                }
            )
    return rows
