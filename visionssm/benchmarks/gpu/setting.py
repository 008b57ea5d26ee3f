"""What the stages measure: on a GPU, or tiny on the CPU to prove that every stage works."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from visionssm.benchmarks.kernels import SHAPES, Shape

Timer = Callable[[Callable[[], object]], float]
"""Median milliseconds of a function."""


@dataclass(frozen=True)
class Setting:
    """Shapes, batches and models of a run, and how a function is timed.

    Args:
        device: "cuda", or "cpu" with Triton's interpreter.
        shapes: of the scans.
        batches: of the scans and of the models' inference; models train with the last.
        models: timm names; those of this package beside others.
        size: side of the images.
        seconds: for each rate of a model.
        product: side of the matrices, and elements of the copy in MiB, that give the ceilings.
        timer: milliseconds of a function.
    """

    device: str
    shapes: Sequence[Shape]
    batches: Sequence[int]
    models: Sequence[str]
    size: int
    seconds: float
    product: int
    timer: Timer


def gpu_milliseconds(function: Callable[[], object]) -> float:
    """Triton's benchmark: an empty L2 cache before every call, the median over 50 ms of calls."""
    from triton.testing import do_bench

    return float(do_bench(function, warmup=10, rep=50, return_mode="median"))


def wall_milliseconds(function: Callable[[], object]) -> float:
    """One call by the clock."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


MODELS = ("vmamba_tiny_s1l8", "vmamba_v0_tiny", "vim_tiny", "swin_tiny_patch4_window7_224", "convnext_tiny")
ON_GPU = Setting("cuda", SHAPES, (1, 128), MODELS, 224, 1.5, 8192, gpu_milliseconds)
TINY = Shape("tiny", height=2, width=3, channels=4, d_state=1, dt_rank=2, n_routes=4)
DRY_RUN = Setting("cpu", (TINY,), (1, 2), ("vmamba_nano_test", "test_convnext"), 32, 0.0, 64, wall_milliseconds)


def synchronize(setting: Setting) -> None:
    """Wait for the GPU."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
