"""What the scan costs in a whole network on this CPU, and how the cost grows with the image.

The same network runs with our scan, with the identity in its place (everything but the scan), with a step-by-step
PyTorch scan in its place, and in the published layout: copies of the map along each route, projections of every copy,
and that same step-by-step scan, as published CPU fall-backs run. Beside it runs timm's Swin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.backbones import plainmamba
from visionssm.benchmarks import kernels
from visionssm.benchmarks.figures import new_figure, save
from visionssm.benchmarks.memory import fresh_growth
from visionssm.benchmarks.timing import medians_in_turn, progress
from visionssm.kernels import LowRank
from visionssm.layers import mamba, ss2d

SWIN = "swin_tiny_patch4_window7_224"
VIT = "vit_small_patch16_224"
VMAMBA, VMAMBA_V0 = "vmamba_tiny_s1l8", "vmamba_v0_tiny"
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {  # of models with a position table or windows, by image size
    SWIN: lambda size: {"img_size": size},
    VIT: lambda _: {"dynamic_img_size": True},
}
HYBRIDS = {
    "mambavision_tiny": SWIN,
    "mambavision_small": "swin_small_patch4_window7_224",
    "mambavision_base": "swin_base_patch4_window7_224",
}
"""Networks of which scans are a small part, and the Swin of about the same operations."""
GROWTH_SIZES = (224, 448, 896)
INFERENCE_SCANS = ("ours", "identity", "sequential", "published")
TRAINING_SCANS = ("ours", "identity", "sequential", "published")
STEP_BY_STEP = ("sequential", "published")
"""Scans that take seconds to minutes and have nothing to compile."""
TURN = 0.4  # seconds: a few inferences, so that none is measured on the caches that another network leaves


def identity_scan(
    u: Tensor, *_: Any, order: Tensor | None = None, merge: bool = True, return_final_state: bool = False, **__: Any
) -> Any:
    """The map as it is, in place of a scan; without `merge`, once for every route."""
    y = u if merge or order is None else u[:, None].expand(-1, order.shape[0], -1, -1)
    return (y, u.new_empty(0)) if return_final_state else y


def _in_pytorch(scan: Callable[[kernels.Inputs], Tensor]) -> Callable[..., Any]:
    """One of the benchmark's PyTorch scans with `selective_scan`'s arguments."""

    def scanned(
        u: Tensor,
        dt: LowRank,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        *,
        order: Tensor,
        d: Tensor,
        dt_bias: Tensor,
        return_final_state: bool = False,
        **_: Any,
    ) -> Any:
        y = scan(kernels.Inputs(u, dt.low, dt.weight, a, b, c, d, dt_bias, order))
        return (y, u.new_empty(0)) if return_final_state else y

    return scanned


def published_layout(layer: ss2d.RouteScan, u: Tensor, order: Tensor) -> Tensor:
    """`RouteScan.scan` over SS2D's four routes as published (VMamba, arXiv 2401.10166), in plain PyTorch.

    Four copies of the channels-first map, projections of each copy, steps of all channels, b and c repeated for every
    channel, one recurrence step at a time taken by indexing, and the sum of the four results brought back to their
    pixels. (B, H, W, D) to the same.
    """
    del order
    _, height, width, dim = u.shape
    image = u.permute(0, 3, 1, 2)
    ahead = torch.stack([image.flatten(2), image.mT.flatten(2)], 1)
    copies = torch.cat([ahead, ahead.flip(-1)], 1)  # (B, K, D, L)
    projected = torch.einsum("bkdl,kcd->bkcl", copies, layer.x_proj_weight)
    dt, b, c = projected.split([layer.dt_rank, layer.d_state, layer.d_state], dim=2)
    dt = torch.einsum("bkrl,kdr->bkdl", dt, layer.dt_projs_weight)
    delta = F.softplus(dt + layer.dt_projs_bias[..., None])
    # One row per route and channel from here on, also of b and c.
    delta, u, a = delta.flatten(1, 2), copies.flatten(1, 2), -torch.exp(layer.A_logs)
    b, c = (x.repeat_interleave(dim, dim=1) for x in (b, c))  # (B, K·D, N, L)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, a))
    drive = torch.einsum("bdl,bdnl,bdl->bdln", delta, b, u)
    state = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for t in range(height * width):
        state = decay[:, :, t] * state + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bdn->bd", state, c[..., t]))
    y = torch.stack(outputs, -1) + layer.Ds[:, None] * u
    y = y.unflatten(1, (layer.n_routes, dim))
    y = y[:, :2] + y[:, 2:].flip(-1)
    merged = y[:, 0] + y[:, 1].unflatten(-1, (width, height)).mT.flatten(2)
    return merged.unflatten(-1, (height, width)).permute(0, 2, 3, 1).contiguous()


@contextmanager
def _without_scans() -> Iterator[None]:
    with ExitStack() as patches:
        for module, scan in ((ss2d, "selective_scan"), (mamba, "selective_scan"), (plainmamba, "step_scan")):
            patches.enter_context(mock.patch.object(module, scan, identity_scan))
        yield


SCANS: dict[str, Callable[[], Any]] = {  # how layers are made to scan with each, for a while
    "ours": nullcontext,
    "identity": _without_scans,
    "sequential": partial(mock.patch.object, ss2d, "selective_scan", _in_pytorch(kernels.sequential)),
    "published": partial(mock.patch.object, ss2d.RouteScan, "scan", published_layout),
}


@contextmanager
def scanning_with(name: str) -> Iterator[None]:
    """Run models with a scan of `SCANS`: SS2D layers with any, LocalMamba and PlainMamba also with the identity."""
    with SCANS[name]():
        yield


def create(name: str, size: int) -> nn.Module:
    """A timm model without weights that takes images of this size."""
    return timm.create_model(name, **OPTIONS.get(name, lambda _: {})(size))


def _infer(model: nn.Module, images: Tensor, scan: str = "ours") -> None:
    with torch.inference_mode(), scanning_with(scan):
        model(images)


def _train(model: nn.Module, images: Tensor, scan: str = "ours") -> None:
    model.zero_grad()
    with scanning_with(scan):
        model(images).square().mean().backward()


def _images(batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def inference(
    name: str,
    *,
    size: int = 224,
    seconds: float = 30.0,
    compiled: bool = False,
    scans: Sequence[str] = INFERENCE_SCANS,
) -> dict[str, Any]:
    """Batch 1: our network with these `scans` and Swin-T; with `compiled`, also against itself compiled."""
    images = _images(1, size)
    model, swin = create(name, size).eval(), create(SWIN, size).eval()
    runs: dict[str, Callable[[], object]] = {scan: partial(_infer, model, images, scan) for scan in scans}
    runs["swin"] = partial(_infer, swin, images)
    if compiled:
        fast: Any = torch.compile(model, fullgraph=True)
        runs["compiled"] = partial(_infer, fast, images)
    times = medians_in_turn(runs, seconds=seconds, turn=TURN, once=STEP_BY_STEP)
    return _row(name, f"inference, batch 1, {size}²", times)


def training(name: str, *, batch: int = 4, size: int = 224, seconds: float = 60.0) -> dict[str, Any]:
    """Forward and backward pass: our network against its other scans and Swin-T, and memory of the passes."""
    images = _images(batch, size)
    model, swin = create(name, size), create(SWIN, size)
    runs: dict[str, Callable[[], object]] = {scan: partial(_train, model, images, scan) for scan in TRAINING_SCANS}
    runs["swin"] = partial(_train, swin, images)
    times = medians_in_turn(runs, seconds=seconds, turn=TURN, once=STEP_BY_STEP)
    memory = {scan: training_memory(name, scan, batch=batch, size=size) for scan in ("ours", "identity")}
    row = _row(name, f"training step, batch {batch}, {size}²", times)
    if memory["ours"]:
        row["peak memory / identity scan"] = memory["ours"] / memory["identity"]
    return row


def beside_identity(
    pairs: Mapping[str, str] = HYBRIDS, *, size: int = 224, batch: int = 2, seconds: float = 8.0
) -> list[dict[str, Any]]:
    """Inference of an image and a training step: networks with their scans, with the identity there, and Swin.

    Args:
        pairs: network to what is put beside it.
        size: side of the images.
        batch: images of a training step.
        seconds: for each row.
    """
    rows = []
    for name, peer in pairs.items():
        for what, step, count in (("inference", _infer, 1), ("training step", _train, batch)):
            progress(f"{name}, {what} …")
            training, images = what != "inference", _images(count, size)
            model, other = create(name, size).train(training), create(peer, size).train(training)
            runs = {scan: partial(step, model, images, scan) for scan in ("ours", "identity")}
            runs["peer"] = partial(step, other, images)
            times = medians_in_turn(runs, seconds=seconds, turn=TURN)
            rows.append(
                {
                    "network": name,
                    "pass": f"{what}, batch {count}, {size}²",
                    "ours ms": times["ours"] * 1e3,
                    "ours / identity scan": times["ours"] / times["identity"],
                    "peer": peer,
                    "ours / peer": times["ours"] / times["peer"],
                }
            )
    return rows


def _row(name: str, what: str, times: Mapping[str, float]) -> dict[str, Any]:
    """Ratios of the times that were measured, None for the others."""
    ours = times["ours"]
    return {
        "network": name,
        "pass": what,
        "ours ms": ours * 1e3,
        "ours / identity scan": ours / times["identity"],
        "ours / Swin-T": ours / times["swin"],
        "published layout / ours": times["published"] / ours if "published" in times else None,
        "sequential / ours": times["sequential"] / ours if "sequential" in times else None,
        "compiled / ours": times["compiled"] / ours if "compiled" in times else None,
        "peak memory / identity scan": None,
    }


def training_memory(name: str, scan: str, *, batch: int, size: int) -> float:
    """Bytes by which a fresh process grows at most during a training step, weights not included; 0 if not known."""
    return fresh_growth(partial(_training_step, name, scan, batch, size))


def _training_step(name: str, scan: str, batch: int, size: int) -> Callable[[], object]:
    model = create(name, size)
    _train(model, _images(1, 64), scan)  # compiles kernels and allocates gradients
    return partial(_train, model, _images(batch, size), scan)


def cost_of_size(sizes: Sequence[int] = GROWTH_SIZES, *, seconds: float = 20.0) -> list[dict[str, Any]]:
    """Seconds of an inference at batch 1 of ours, Swin-T, ViT-S and the sequential scan; a network's sizes in turn."""
    networks = {
        "VMamba-T": (VMAMBA, "ours"),
        "VMamba-T, sequential scan": (VMAMBA, "sequential"),
        "Swin-T": (SWIN, "ours"),
        "ViT-S": (VIT, "ours"),
    }
    rows: list[dict[str, Any]] = [{"size": size} for size in sizes]
    for title, (name, scan) in networks.items():
        progress(f"{title} at {', '.join(f'{size}²' for size in sizes)} …")
        runs = {str(size): partial(_infer, create(name, size).eval(), _images(1, size), scan) for size in sizes}
        times = medians_in_turn(runs, seconds=seconds, turn=TURN)
        for row in rows:
            row[title] = times[str(row["size"])]
    for row in rows:
        row["VMamba-T / at first size"] = row["VMamba-T"] / rows[0]["VMamba-T"]
    return rows


def run(names: Sequence[str] = (), *, seconds: float = 30.0) -> list[dict[str, Any]]:
    """All rows of the table of networks; or of these, an inference each beside themselves without scans and Swin-T."""
    rows = []
    for name in names:
        progress(f"{name}, inference …")
        rows.append(inference(name, seconds=seconds, scans=("ours", "identity")))
    if rows:
        return rows
    for name in (VMAMBA, VMAMBA_V0):
        progress(f"{name}, inference …")
        rows.append(inference(name, seconds=seconds, compiled=name == VMAMBA))
    progress(f"{VMAMBA}, training …")
    rows.append(training(VMAMBA, seconds=2 * seconds))
    return rows


def draw_cost(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw time against pixels, both over our network's at the first size, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(figsize=(7.0, 5.0))
    base = rows[0]["VMamba-T"]
    sides = [row["size"] for row in rows]
    styles = {"VMamba-T": "#c2410c", "VMamba-T, sequential scan": "#f59e0b", "Swin-T": "#1d4ed8", "ViT-S": "#0f766e"}
    for name, colour in styles.items():
        axes.plot(sides, [row[name] / base for row in rows], marker="o", color=colour, label=name)
    linear = [(side / sides[0]) ** 2 for side in sides]
    axes.plot(sides, linear, color="#94a3b8", linestyle="--", linewidth=0.8, label="proportional to pixels")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sides, [f"{side}²" for side in sides])
    axes.grid(color="#e2e8f0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("image")
    axes.set_ylabel("time / VMamba-T's at the smallest image")
    axes.set_title(f"Inference on the CPU, batch 1, {torch.get_num_threads()} threads", loc="left")
    axes.legend(frameon=False)
    save(figure, path)
