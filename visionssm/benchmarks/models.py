"""Whole models beside timm's models of the same operations: latency, throughput, memory, parameters, FLOPs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.backbones import list_models
from visionssm.benchmarks.figures import new_figure, save
from visionssm.benchmarks.flops import create_for_size, multiply_adds_of
from visionssm.benchmarks.memory import growth
from visionssm.benchmarks.timing import medians_in_turn, progress

REFERENCE = "swin_tiny_patch4_window7_224"
PEERS = (
    "convnext_atto",
    "mambaout_femto",
    "deit_tiny_patch16_224",
    "convnext_nano",
    "deit_small_patch16_224",
    "convnext_tiny",
    "mambaout_tiny",
    "swin_tiny_patch4_window7_224",
    "convnext_small",
    "mambaout_small",
    "swin_small_patch4_window7_224",
    "convnext_base",
    "deit_base_patch16_224",
    "mambaout_base",
    "swin_base_patch4_window7_224",
)
DEFAULT_MODELS = ("efficientvmamba_tiny", "msvmamba_nano", "spatialmamba_tiny", "vim_tiny", "vmamba_tiny_s1l8")
SAME_OPERATIONS = 1.25  # a peer has at most so many times more or fewer operations than the model that it is for


def select(patterns: Sequence[str]) -> list[str]:
    """Registered variants that match any of the shell patterns, each once, in the patterns' order.

    Raises:
        ValueError: a pattern matches none.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = fnmatch.filter(list_models(), pattern)
        if not found:
            raise ValueError(f"no registered model matches {pattern!r}; visionssm.list_models() lists them")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def peers_for(models: Mapping[str, int], peers: Mapping[str, int]) -> list[str]:
    """Of the peers, those with about the operations of one of the models (both map names to multiply-adds)."""
    return [
        name
        for name, operations in peers.items()
        if any(1 / SAME_OPERATIONS <= operations / count <= SAME_OPERATIONS for count in models.values())
    ]


def _images(model: nn.Module, batch: int, size: int) -> Tensor:
    channels = int(model.default_cfg["input_size"][0])  # type: ignore[index]
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def latencies(names: Sequence[str], *, batch: int, size: int, seconds: float) -> dict[str, float]:
    """Median seconds of a batch of each model, timed in turn."""
    models = {name: create_for_size(name, size) for name in names}
    runs: dict[str, Callable[[], object]] = {
        name: partial(model, _images(model, batch, size)) for name, model in models.items()
    }
    return medians_in_turn(runs, seconds=seconds)


def peak_memory(name: str, *, batch: int, size: int, threads: int) -> float | None:
    """Bytes by which a process grows at most during one inference, weights not included; in a fresh process.

    None where the system does not tell, see `growth`.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_growth, name, batch, size, threads).result()


@torch.inference_mode()
def _growth(name: str, batch: int, size: int, threads: int) -> float | None:
    torch.set_num_threads(threads)
    model = create_for_size(name, size)
    images = _images(model, batch, size)
    model(images)  # compiles kernels, which takes memory of its own
    return growth(partial(model, images))


def measure(
    name: str,
    *,
    reference: str = REFERENCE,
    batch: int = 1,
    size: int = 224,
    seconds: float = 10.0,
    counted: tuple[int, int] | None = None,
    with_memory: bool = True,
) -> dict[str, Any]:
    """One row: a model's figures, and its latency over that of the reference, which was timed in turn with it.

    Args:
        name: registered variant or timm model.
        reference: timm model that the latency is compared with.
        batch, size: images and their side.
        seconds: time for the measurement.
        counted: (multiply-adds, parameters) where they are known already.
        with_memory: also start a process that measures the memory, which takes longer than all the rest.
    """
    operations, parameters = counted or multiply_adds_of(name, size)
    times = latencies((name, reference), batch=batch, size=size, seconds=seconds)
    memory = None
    if with_memory:
        memory = peak_memory(name, batch=batch, size=size, threads=torch.get_num_threads())
    return {
        "model": name,
        "kind": "ours" if name in list_models() else "timm",
        "GFLOPs": operations / 1e9,
        "parameters M": parameters / 1e6,
        "batch": batch,
        "size": size,
        "latency ms": times[name] * 1e3,
        "images/s": batch / times[name],
        "latency / reference": times[name] / times[reference],
        "peak memory MB": None if memory is None else memory / 1e6,
    }


def run(
    patterns: Sequence[str] = DEFAULT_MODELS,
    *,
    peers: Sequence[str] | None = None,
    reference: str = REFERENCE,
    batch: int = 1,
    size: int = 224,
    seconds: float = 10.0,
    with_memory: bool = True,
) -> list[dict[str, Any]]:
    """Rows of the models, the reference and peers, in the order of their operations.

    Args:
        patterns: shell patterns of registered variants.
        peers: timm models to put beside them; None for those of `PEERS` with about the same operations.
        reference: the timm model that every model is timed in turn with.
        batch, size: images and their side.
        seconds: time for the measurement of each model.
        with_memory: measure the memory too.

    Raises:
        ValueError: a pattern matches nothing, or a peer is no model of timm's.
    """
    counts = {name: multiply_adds_of(name, size) for name in select(patterns)}
    candidates = {name: multiply_adds_of(name, size) for name in (PEERS if peers is None else peers)}
    chosen = list(candidates)
    if peers is None:
        chosen = peers_for({k: v[0] for k, v in counts.items()}, {k: v[0] for k, v in candidates.items()})
    counts |= {name: candidates[name] for name in chosen}
    counts[reference] = counts.get(reference) or multiply_adds_of(reference, size)
    rows = []
    for name in sorted(counts, key=lambda key: counts[key][0]):
        progress(f"{name}, batch {batch}, {size}×{size} …")
        setting: dict[str, Any] = {
            "reference": reference,
            "batch": batch,
            "size": size,
            "seconds": seconds,
            "with_memory": with_memory,
        }
        rows.append(measure(name, counted=counts[name], **setting))
    return rows


def scatter(rows: Sequence[Mapping[str, Any]], path: str | Path, *, reference: str = REFERENCE) -> None:
    """Draw GFLOPs against latency over the reference's, one labelled dot a model, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(figsize=(8.5, 5.5))
    styles = {"ours": ("visionssm", "#c2410c", "o"), "timm": ("timm", "#1d4ed8", "s")}
    for kind, (label, colour, marker) in styles.items():
        chosen = [row for row in rows if row["kind"] == kind]
        x, y = [row["GFLOPs"] for row in chosen], [row["latency / reference"] for row in chosen]
        axes.scatter(x, y, s=42, color=colour, marker=marker, label=label, zorder=3, edgecolor="white", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.22, y=0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_round_numbers())
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.axhline(1, color="#94a3b8", linewidth=0.8, linestyle="--", zorder=1)
    axes.grid(color="#e2e8f0", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    first = rows[0]
    axes.set_xlabel(f"GFLOPs of a {first['size']}×{first['size']} image (multiply-adds)")
    axes.set_ylabel(f"latency / {reference}'s")
    threads = torch.get_num_threads()
    setting = f"batch {first['batch']}, {threads} thread{'s' if threads > 1 else ''}"
    axes.set_title(f"Inference on the CPU, {setting}", loc="left")
    axes.legend(frameon=False, loc="upper left")
    _label(axes, rows, {kind: colour for kind, (_, colour, _) in styles.items()})
    save(figure, path)


def _round_numbers() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))


def _label(axes: Any, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    """A name beside each dot: the first place around it that covers no dot and no other name."""
    from matplotlib.text import Text

    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    dots = axes.transData.transform([(row["GFLOPs"], row["latency / reference"]) for row in rows])
    taken: list[Any] = []
    places = [
        (dx, dy, side)
        for dy in (0, 9, -9, 18, -18, 27, -27, 36, -36, 45, -45)
        for dx, side in ((7, "left"), (-7, "right"))
    ]
    for row in rows:
        at = (row["GFLOPs"], row["latency / reference"])
        for dx, dy, side in places:
            lifted = abs(dy) > 9
            text = axes.annotate(
                row["model"],
                at,
                xytext=(dx, dy),
                textcoords="offset points",
                fontsize=7.5,
                color=colours[row["kind"]],
                ha=side,
                va="center",
                arrowprops=dict(arrowstyle="-", color="#cbd5e1", linewidth=0.6) if lifted else None,
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(3)  # of the name alone, without its line
            covers = any(box.overlaps(other) for other in taken) or any(box.contains(*dot) for dot in dots)
            if not covers and axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1):
                break
            if (dx, dy, side) != places[-1]:
                text.remove()
        taken.append(box)
