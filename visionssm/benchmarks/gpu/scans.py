"""The selective scan on a GPU: ours, the published package where it is installed, and the definition step by step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.benchmarks.kernels import SHAPES, Inputs, Shape, forward_backward, ours
from visionssm.benchmarks.timing import progress
from visionssm.kernels import use_backend
from visionssm.kernels.selective_scan.reference import along_routes, back_to_pixels

Scan = Callable[[Inputs], Tensor]
Timer = Callable[[Callable[[], object]], float]
"""Median milliseconds of a function."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def median_milliseconds(function: Callable[[], object]) -> float:
    """Triton's benchmark: warm-up, an empty L2 cache before every call, the median over 100 ms of calls."""
    from triton.testing import do_bench

    return float(do_bench(function, return_mode="median"))


def require_gpu() -> torch.device:
    """The GPU to measure on.

    Raises:
        ValueError: PyTorch sees none, or Triton is not installed.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "PyTorch sees no CUDA or ROCm GPU here; run this where there is one (tools/inspect_kernels.py needs none)"
        )
    if importlib.util.find_spec("triton") is None:
        raise ValueError("the GPU kernels need Triton: pip install triton")
    return torch.device("cuda", torch.cuda.current_device())


def definition(x: Inputs) -> Tensor:
    """The operator's definition in PyTorch, one step at a time."""
    with use_backend("reference"):
        return ours(x)


def triton_scan(x: Inputs) -> Tensor:
    """`visionssm.kernels.selective_scan` on its Triton backend."""
    with use_backend("triton"):
        return ours(x)


def published(x: Inputs) -> Tensor:
    """The published layout around `mamba_ssm`'s kernel: a copy of the map per route, steps of all channels, a sum."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return around_published_kernel(x, selective_scan_fn)


def around_published_kernel(x: Inputs, kernel: Callable[..., Tensor]) -> Tensor:
    """Call a scan of (B, K·D, T) channels-first tensors with b and c in K groups, (B, K, N, T), for our inputs."""
    n_routes = x.order.shape[0]
    u, low, b, c = (
        along_routes(t, x.order).squeeze(2).transpose(2, 3)  # (B, K, ·, T)
        for t in (x.u[:, :, None].expand(-1, -1, n_routes, -1), x.low, x.b, x.c)
    )
    delta = torch.einsum("bkrt,krd->bkdt", low, x.weight.to(low.dtype))
    y = kernel(
        u.flatten(1, 2).contiguous(),
        delta.flatten(1, 2).contiguous(),
        x.a.flatten(0, 1),
        b.contiguous(),
        c.contiguous(),
        x.d.flatten(),
        delta_bias=x.bias.flatten(),
        delta_softplus=True,
    )
    y = y.unflatten(1, (n_routes, -1)).transpose(2, 3)[:, :, None]  # (B, K, 1, T, D)
    return back_to_pixels(y, x.order, x.u.shape[1]).sum(1)


def plain_channels_first_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """The interface of the published kernel, in PyTorch: what `around_published_kernel` is tested with."""
    delta = delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    b, c = (t.repeat_interleave(u.shape[1] // t.shape[1], dim=1) for t in (b, c))  # (B, K·D, N, T)
    h = torch.zeros_like(b[..., 0])
    outputs = []
    for t in range(u.shape[-1]):
        h = torch.exp(delta[:, :, None, t] * a) * h + (delta * u)[:, :, None, t] * b[..., t]
        outputs.append((h * c[..., t]).sum(-1))
    return torch.stack(outputs, -1) + d[:, None] * u


def candidates() -> dict[str, Scan]:
    """What is compared; the published kernel only where `mamba_ssm` is installed."""
    found: dict[str, Scan] = {"ours": triton_scan, "definition": definition}
    if importlib.util.find_spec("mamba_ssm") is not None:
        found["mamba_ssm"] = published
    return found


def inputs_on(shape: Shape, device: torch.device | str, dtype: torch.dtype) -> Inputs:
    """Inputs of a scan: maps, low-rank steps, b and c in a dtype, parameters in float32."""
    x = Inputs.random(shape)
    in_dtype = {"u", "low", "b", "c"}
    moved = {
        f.name: getattr(x, f.name).to(device, dtype if f.name in in_dtype else None)
        for f in fields(x)
        if f.name != "order"
    }
    return Inputs(**moved, order=x.order.to(device))


def _difference(x: Inputs) -> float | None:
    """Largest difference of ours to the definition over its largest value; None if the definition needs more memory."""
    try:
        want = definition(x).detach()
    except torch.OutOfMemoryError:
        return None
    return float((triton_scan(x).detach() - want).abs().max() / want.abs().max())


def measure(
    shape: Shape,
    *,
    dtype: torch.dtype,
    backward: bool,
    device: torch.device | str,
    timer: Timer,
    scans: dict[str, Scan],
) -> dict[str, Any]:
    """One row: medians in milliseconds, ratios to ours, and how far ours is from the definition.

    A candidate that runs out of memory has no figure.
    """
    x = inputs_on(shape, device, dtype)
    if backward:
        x.require_grad()
    times: dict[str, float | None] = {}
    with torch.set_grad_enabled(backward):
        difference = _difference(x)
        for name, scan in scans.items():
            call = forward_backward(scan, x) if backward else (lambda scan=scan: scan(x))
            try:
                times[name] = timer(call)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                times[name] = None
    own = times["ours"]
    row = {
        "scan": shape.name,
        "batch": shape.batch,
        "dtype": str(dtype).removeprefix("torch."),
        "pass": "forward + backward" if backward else "forward",
        "ours ms": own,
    }
    for name, other in times.items():
        if name != "ours":
            row[f"{name} / ours"] = other / own if other and own else None
    return {**row, "difference to definition": difference}


def run(
    *,
    shapes: Sequence[Shape] = tuple(SHAPES),
    batches: Sequence[int] = (1, 32),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    device: torch.device | str | None = None,
    timer: Timer = median_milliseconds,
) -> list[dict[str, Any]]:
    """Rows of all shapes, batches, dtypes and passes.

    Args:
        shapes, batches, dtypes: what is measured; dtypes are names in `DTYPES`.
        device: None for the GPU; anything else is for tests with Triton's interpreter.
        timer: how a function is timed.

    Raises:
        ValueError: there is no GPU.
    """
    where = require_gpu() if device is None else torch.device(device)
    scans = candidates()
    rows = []
    for shape in shapes:
        for batch in batches:
            for name in dtypes:
                for backward in (False, True):
                    progress(
                        f"{shape.name}, batch {batch}, {name}, {'forward + backward' if backward else 'forward'} …"
                    )
                    sized = replace(shape, batch=batch)
                    rows.append(
                        measure(sized, dtype=DTYPES[name], backward=backward, device=where, timer=timer, scans=scans)
                    )
    return rows
