"""The selective scan on this machine's CPU against what is published, at the shapes of published models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.benchmarks.timing import available_memory, medians_in_turn, progress
from visionssm.kernels import LowRank, routes, selective_scan
from visionssm.kernels.selective_scan.reference import along_routes, back_to_pixels


@dataclass(frozen=True)
class Shape:
    """One selective scan of a published model."""

    name: str
    height: int
    width: int
    channels: int  # D
    d_state: int  # N
    dt_rank: int  # R
    n_routes: int  # K
    batch: int = 1

    @property
    def states(self) -> int:
        """B·K·D·N·L, the number of exponentials."""
        return self.batch * self.n_routes * self.channels * self.d_state * self.height * self.width


VMAMBA_T = [Shape(f"VMamba-T stage {i + 1}", 56 >> i, 56 >> i, 96 << i, 1, 6 << i, 4) for i in range(4)]
VMAMBA_V0_T = Shape("VMamba-v0-T stage 1", 56, 56, 192, 16, 6, 4)
VIM_T = Shape("Vim-T", 1, 197, 384, 16, 12, 1)
SHAPES = [*VMAMBA_T, VMAMBA_V0_T, VIM_T]
SIDES = (56, 256)  # of maps that one image has
PIXELS_A_TURN = 1 << 20  # between two changes of the number of threads, after which OpenMP starts its threads anew


@dataclass
class Inputs:
    """Tensors of one scan; `order` is the route table."""

    u: Tensor
    low: Tensor
    weight: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    bias: Tensor
    order: Tensor

    @classmethod
    def random(cls, shape: Shape) -> Inputs:
        """Inputs as a model gives them: dt, B and C are slices of one projection."""
        generator = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        pixels, k, d, n, r = shape.height * shape.width, shape.n_routes, shape.channels, shape.d_state, shape.dt_rank
        projected = normal(shape.batch, pixels, k, r + 2 * n)
        low, b, c = projected.split([r, n, n], dim=-1)
        return cls(
            u=normal(shape.batch, pixels, d),
            low=low,
            weight=normal(k, r, d) * r**-0.5,
            a=-torch.arange(1, n + 1.0).expand(k, d, n).contiguous(),
            b=b,
            c=c,
            d=torch.ones(k, d),
            bias=torch.full((k, d), -4.6),
            order=routes.ss2d(shape.height, shape.width) if k == 4 else routes.raster(shape.height, shape.width),
        )

    def leaves(self) -> list[Tensor]:
        return [self.u, self.low, self.weight, self.a, self.b, self.c, self.d, self.bias]

    def require_grad(self) -> None:
        for x in self.leaves():
            x.requires_grad_()


def ours(x: Inputs) -> Tensor:
    """`visionssm.kernels.selective_scan` on its compiled CPU backend."""
    y = selective_scan(x.u, LowRank(x.low, x.weight), x.a, x.b, x.c, d=x.d, dt_bias=x.bias, order=x.order)
    assert isinstance(y, Tensor)
    return y


def sequential(x: Inputs) -> Tensor:
    """One step at a time in PyTorch on materialised exp(Δ·A), with the shapes and steps of published CPU fall-backs.

    It is kinder than they are where gradients are wanted: steps taken by indexing, as published, each allocate a
    gradient of the whole tensor, and those of `unbind` do not.
    """
    decay, drive, u, c = (t.movedim(2, 3) if t.ndim == 5 else t for t in _materialised(x))
    decay, drive = decay.flatten(1, 2).contiguous(), drive.flatten(1, 2).contiguous()  # (B, K·D, T, N)
    c = c.transpose(2, 3).repeat_interleave(x.u.shape[-1], dim=1)  # (B, K·D, N, T): one copy per channel
    h = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for decay_t, drive_t, c_t in zip(decay.unbind(2), drive.unbind(2), c.unbind(3), strict=True):
        h = decay_t * h + drive_t
        outputs.append(torch.einsum("bdn,bdn->bd", h, c_t))
    y = torch.stack(outputs, 2).unflatten(1, (x.order.shape[0], -1)).transpose(2, 3)
    return _merged(x, y, u)


def mambapy(x: Inputs) -> Tensor:
    """mambapy's parallel scan (PyPI package mambapy) on the same materialised tensors."""
    from mambapy.pscan import pscan

    decay, drive, u, c = _materialised(x)
    batch, n_routes = decay.shape[:2]
    h = pscan(decay.flatten(0, 1), drive.flatten(0, 1)).unflatten(0, (batch, n_routes))
    return _merged(x, torch.einsum("bktdn,bktn->bktd", h, c), u)


def _materialised(x: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """exp(Δa) and Δbu (B, K, T, D, N), u (B, K, T, D) and c (B, K, T, N) along the routes."""
    n_routes = x.order.shape[0]
    u, low, b, c = (
        along_routes(t, x.order).squeeze(2) for t in (x.u[:, :, None].expand(-1, -1, n_routes, -1), x.low, x.b, x.c)
    )
    delta = F.softplus(torch.einsum("bktr,krd->bktd", low, x.weight) + x.bias[:, None])
    decay = torch.exp(delta[..., None] * x.a[:, None])
    drive = (delta * u)[..., None] * b[..., None, :]
    return decay, drive, u, c


def _merged(x: Inputs, y: Tensor, u: Tensor) -> Tensor:
    y = y + x.d[:, None] * u
    return back_to_pixels(y[:, :, None], x.order, x.u.shape[1]).sum(1)


def forward_backward(scan: Callable[[Inputs], Tensor], x: Inputs) -> Callable[[], object]:
    """A call that scans and differentiates with respect to all inputs."""
    cotangent = torch.randn_like(x.u)
    leaves = x.leaves()
    return lambda: torch.autograd.grad(scan(x), leaves, cotangent)


@functools.cache
def compile_kernels() -> None:
    """Have both passes compiled before anything is timed; the kernels are the same for every shape."""
    x = Inputs.random(replace(VIM_T, width=1))
    x.require_grad()
    forward_backward(ours, x)()


def measure(shape: Shape, *, seconds: float, backward: bool) -> dict[str, Any]:
    """Ratios of medians of the published ways to ours, and of ours to the cost of the exponentials alone."""
    x = Inputs.random(shape)
    exponents = torch.rand(shape.states).neg_()
    out = torch.empty_like(exponents)
    compile_kernels()
    rivals = {"ours": ours}
    # Materialised tensors a rival holds at a time, in multiples of B·K·D·N·L floats, with room to spare.
    if 4 * shape.states * (14 if backward else 8) < 0.8 * available_memory():
        rivals |= {"sequential": sequential, "mambapy": mambapy}
    candidates: dict[str, Callable[[], object]] = {"exp": lambda: torch.exp(exponents, out=out)}
    if backward:
        x.require_grad()
        candidates |= {name: forward_backward(scan, x) for name, scan in rivals.items()}
        times = medians_in_turn(candidates, seconds=seconds, once=("sequential", "mambapy"))
    else:
        candidates |= {name: partial(scan, x) for name, scan in rivals.items()}
        with torch.no_grad():
            times = medians_in_turn(candidates, seconds=seconds, once=("sequential", "mambapy"))
    return {
        "scan": shape.name,
        "batch": shape.batch,
        "pass": "forward + backward" if backward else "forward",
        "ours ms": times["ours"] * 1e3,
        "sequential / ours": times["sequential"] / times["ours"] if "sequential" in times else None,
        "mambapy / ours": times["mambapy"] / times["ours"] if "mambapy" in times else None,
        "ours / exp": times["ours"] / times["exp"],
    }


def run(*, batches: tuple[int, ...] = (1, 8), seconds: float = 6.0) -> list[dict[str, Any]]:
    """All shapes, batches and passes; rows for the table."""
    rows = []
    for backward in (False, True):
        for batch in batches:
            for shape in SHAPES:
                progress(f"{shape.name}, batch {batch}, {'forward + backward' if backward else 'forward'} …")
                rows.append(measure(replace(shape, batch=batch), seconds=seconds, backward=backward))
    return rows


def cores(sides: Sequence[int] = SIDES, *, seconds: float = 6.0) -> list[dict[str, Any]]:
    """What all threads give a single image, whose channels the kernels share out: a row for the side of each map."""
    threads = torch.get_num_threads()
    compile_kernels()
    rows = []
    for side in sides:
        progress(f"scan of one {side}×{side} map on 1 and {threads} threads …")
        x = Inputs.random(replace(VMAMBA_T[0], height=side, width=side))
        with torch.no_grad():
            calls = PIXELS_A_TURN // side**2
            runs = {n: partial(_scans, x, int(n), calls) for n in ("1", str(threads))}
            times = medians_in_turn(runs, seconds=seconds)
        torch.set_num_threads(threads)
        rows.append(
            {
                "map": f"{side}×{side}, {x.u.shape[-1]} channels",
                "threads": threads,
                "ours ms": times[str(threads)] / calls * 1e3,
                "one thread / ours": times["1"] / times[str(threads)],
            }
        )
    return rows


def _scans(x: Inputs, threads: int, calls: int) -> None:
    torch.set_num_threads(threads)
    for _ in range(calls):
        ours(x)
