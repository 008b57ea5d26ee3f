"""Whole models beside timm's models of the same operations: latency, throughput, memory, parameters, FLOPs."""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.backbones import list_models
from visionssm.benchmarks.choices import DEFAULT_MODELS, REFERENCE
from visionssm.benchmarks.figures import Point, label_points, new_figure, save
from visionssm.benchmarks.flops import create_for_size, multiply_adds_of
from visionssm.benchmarks.memory import growth
from visionssm.benchmarks.published import figures
from visionssm.benchmarks.timing import CLOCKS, median, medians_in_turn, progress

PEERS = (
    "convnext_femto",
    "deit_tiny_patch16_224",
    "convnext_pico",
    "convnext_nano",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "deit_small_patch16_224",
    "convnext_small",
    "swin_small_patch4_window7_224",
    "convnext_base",
    "swin_base_patch4_window7_224",
    "deit_base_patch16_224",
)
ATTEMPTS = 3  # to measure a model while nothing else runs
DISTURBED = 1.3  # times the reference's usual latency
SAME_OPERATIONS = 1.25  # a peer has at most so many times more or fewer operations than the model that it is for

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How every model of a run is measured.

    Args:
        reference: timm model that the latency of each is timed in turn with.
        batch: images at a time for the latency.
        throughput_batch: images at a time for the throughput.
        size: side of the images.
        seconds: time for a latency, and again for a throughput.
        clock: one of `CLOCKS`. Where others use the machine, ratios of the processor's time on one thread still stand.
        with_memory: also start a process that measures the memory, which takes longer than all the rest.
    """

    reference: str = REFERENCE
    batch: int = 1
    throughput_batch: int = 8
    size: int = 224
    seconds: float = 10.0
    clock: str = "wall"
    with_memory: bool = True


def variants() -> list[str]:
    """Every variant of the families: the registered ones, and timm's own MambaOut and EfficientViM."""
    return list_models() + [name for name in figures() if name not in list_models()]


def select(patterns: Sequence[str]) -> list[str]:
    """Variants that match any of the shell patterns, each once, in the patterns' order.

    The tiny ones for tests are chosen by patterns that end in `test` only.

    Raises:
        ValueError: a pattern matches none.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [x for x in fnmatch.filter(variants(), pattern) if pattern.endswith("test") or not x.endswith("_test")]
        if not found:
            raise ValueError(f"no registered model matches {pattern!r}; visionssm.list_models() lists them")
        chosen |= dict.fromkeys(found)
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
def latencies(names: Sequence[str], *, batch: int, size: int, seconds: float, clock: str = "wall") -> dict[str, float]:
    """Median seconds of a batch of each model, timed in turn."""
    models = {name: create_for_size(name, size) for name in names}
    runs: dict[str, Callable[[], object]] = {
        name: partial(model, _images(model, batch, size)) for name, model in models.items()
    }
    for run in runs.values():
        run()  # compiles kernels
    return medians_in_turn(runs, seconds=seconds, clock=CLOCKS[clock])


@torch.inference_mode()
def throughput(name: str, *, batch: int, size: int, seconds: float, clock: str = "wall") -> float:
    """Images per second in batches."""
    model = create_for_size(name, size)
    return batch / median(partial(model, _images(model, batch, size)), seconds=seconds, clock=CLOCKS[clock])


def peak_memory(name: str, *, batch: int, size: int, threads: int) -> float | None:
    """Bytes by which a process grows at most during one inference, weights not included; in a fresh process.

    None where the system does not tell, see `growth`.
    """
    with ProcessPoolExecutor(1, mp_context=_fresh_processes()) as fresh:
        return fresh.submit(_growth, name, batch, size, threads).result()


def _fresh_processes() -> Any:
    """Processes that have imported this module and run nothing; importing takes longer than most measurements."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@torch.inference_mode()
def _growth(name: str, batch: int, size: int, threads: int) -> float | None:
    torch.set_num_threads(threads)
    model = create_for_size(name, size)
    images = _images(model, batch, size)
    model(images)  # compiles kernels, which takes memory of its own
    return growth(partial(model, images))


def measure(name: str, setting: Setting, *, counted: tuple[int, int] | None = None) -> Row:
    """A model's figures, and its latency over that of the reference, which was timed in turn with it.

    Args:
        name: registered variant or timm model.
        setting: how.
        counted: (multiply-adds, parameters) where they are known already.

    Returns:
        The figures, and as `reference ms` the reference's latency, the longer one of that beside the model's latency
        and that after the throughput: it tells whether something else was running.
    """
    size, batch, clock = setting.size, setting.batch, setting.clock
    operations, parameters = counted or multiply_adds_of(name, size)
    times = latencies((name, setting.reference), batch=batch, size=size, seconds=setting.seconds, clock=clock)
    images_per_second = throughput(
        name, batch=setting.throughput_batch, size=size, seconds=setting.seconds, clock=clock
    )
    after = latencies((setting.reference,), batch=batch, size=size, seconds=0.0, clock=clock)[setting.reference]
    memory = None
    if setting.with_memory:
        memory = peak_memory(name, batch=batch, size=size, threads=torch.get_num_threads())
    return {
        "model": name,
        "kind": "ours" if name in list_models() else "timm",
        "GFLOPs": operations / 1e9,
        "parameters M": parameters / 1e6,
        "latency ms": times[name] * 1e3,
        "latency / reference": times[name] / times[setting.reference],
        "reference ms": max(times[setting.reference], after) * 1e3,
        "images/s": images_per_second,
        "peak memory MB": None if memory is None else memory / 1e6,
        **{key: value for key, value in asdict(setting).items() if key != "with_memory"},
    }


def run(
    patterns: Sequence[str] = DEFAULT_MODELS,
    setting: Setting = Setting(),
    *,
    peers: Sequence[str] | None = None,
    done: Sequence[Row] = (),
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Rows of the models, the reference and peers, in the order of their operations.

    Args:
        patterns: shell patterns of variants.
        setting: how they are measured.
        peers: timm models to put beside them; None for those of `PEERS` with about the same operations.
        done: rows of a run that was cut off; the models in them are not measured again.
        keep: called with the rows so far after every model, so that a run that is cut off can go on.

    Raises:
        ValueError: a pattern matches nothing, a peer is no model of timm's, or `done` was measured in another way.
    """
    rows = {row["model"]: row for row in done}
    for row in done:
        differing = [key for key, value in asdict(setting).items() if row.get(key, value) != value]
        if differing:
            raise ValueError(f"the rows that are done were measured with another {', '.join(differing)}; begin anew")

    def count(name: str) -> tuple[int, int]:
        if name in rows:
            return round(1e9 * rows[name]["GFLOPs"]), round(1e6 * rows[name]["parameters M"])
        return multiply_adds_of(name, setting.size)

    counts = {name: count(name) for name in select(patterns)}
    candidates = {name: count(name) for name in (PEERS if peers is None else peers)}
    chosen = list(candidates)
    if peers is None:
        chosen = peers_for({k: v[0] for k, v in counts.items()}, {k: v[0] for k, v in candidates.items()})
    counts |= {name: candidates[name] for name in chosen}
    counts[setting.reference] = counts.get(setting.reference) or count(setting.reference)
    order = sorted(counts, key=lambda name: counts[name][0])
    for number, name in enumerate(order, start=1):
        if name in rows:
            continue
        progress(f"{number} of {len(order)}: {name}, {setting.size}×{setting.size} …")
        usual = [row["reference ms"] for row in rows.values()]
        for _ in range(ATTEMPTS):
            row = measure(name, setting, counted=counts[name])
            rows[name] = min(row, rows.get(name, row), key=lambda one: one["reference ms"])
            if not usual or rows[name]["reference ms"] <= DISTURBED * statistics.median(usual):
                break
            progress(f"{name} again: the reference took {row['reference ms']:.0f} ms")
        keep([rows[name] for name in order if name in rows])
    return [_beside_its_peer(rows[name], [rows[peer] for peer in candidates if peer in rows]) for name in order]


def _beside_its_peer(row: Row, peers: Sequence[Row]) -> Row:
    """The row with its latency and throughput over those of the peer with the most similar operations, if any is near.

    Latencies are compared by way of the reference, which was timed in turn with both.
    """
    added: Row = {"peer": None, "latency / peer": None, "images/s / peer": None}
    near = [peer for peer in peers if peers_for({"": row["GFLOPs"]}, {"": peer["GFLOPs"]})]
    if near and row["model"] in variants():
        peer = min(near, key=lambda other: abs(math.log(other["GFLOPs"] / row["GFLOPs"])))
        added = {
            "peer": peer["model"],
            "latency / peer": row["latency / reference"] / peer["latency / reference"],
            "images/s / peer": row["images/s"] / peer["images/s"],
        }
    return {**row, **added}


SHOWN = (
    "model",
    "parameters M",
    "GFLOPs",
    "latency ms",
    "images/s",
    "peak memory MB",
    "peer",
    "latency / peer",
    "images/s / peer",
)


def shown(rows: Sequence[Row]) -> list[Row]:
    """The columns for a table on paper; the others are in the JSON file."""
    return [{column: row[column] for column in SHOWN} for row in rows]


FEW_NAMES = 20  # models that are told apart without a colour for each family
OURS, THEIRS = "#c2410c", "#1d4ed8"


def scatter(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw GFLOPs against latency over the reference's as a PNG: named dots, of many models a colour for each family.

    Raises:
        ImportError: matplotlib is not installed.
    """
    few = len(rows) <= FEW_NAMES
    figure, axes = new_figure(figsize=(8.5, 5.5) if few else (14.0, 10.0))
    points = []
    for (label, chosen), style in zip(_groups(rows, few).items(), _styles(few), strict=False):
        x, y = [row["GFLOPs"] for row in chosen], [row["latency / reference"] for row in chosen]
        axes.scatter(x, y, s=42, label=label, zorder=3, edgecolor="white", linewidth=0.6, **style)
        points += [Point(a, b, row["model"], style["color"]) for a, b, row in zip(x, y, chosen, strict=True)]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.22 if few else 0.1, y=0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_round_numbers())
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.axhline(1, color="#94a3b8", linewidth=0.8, linestyle="--", zorder=1)
    axes.grid(color="#e2e8f0", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    first = rows[0]
    axes.set_xlabel(f"GFLOPs of a {first['size']}×{first['size']} image (multiply-adds)")
    axes.set_ylabel(f"latency / {first['reference']}'s")
    threads = torch.get_num_threads()
    setting = f"batch {first['batch']}, {threads} thread{'s' if threads > 1 else ''}"
    axes.set_title(f"Inference on the CPU, {setting}", loc="left")
    axes.legend(frameon=False, loc="upper left", ncols=1 if few else 2)
    label_points(axes, points, fontsize=7.5 if few else 7.0)
    save(figure, path)


def _groups(rows: Sequence[Mapping[str, Any]], few: bool) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by what they share a colour with; timm's models are the first group."""
    groups: dict[str, list[Mapping[str, Any]]] = {"timm": []}
    for row in rows:
        family = row["model"].split("_")[0]
        label = "timm" if row["kind"] == "timm" else "visionssm"
        if not few and row["model"] in variants():
            label = family if row["kind"] == "ours" else f"{family} (timm)"
        groups.setdefault(label, []).append(row)
    return {label: chosen for label, chosen in groups.items() if chosen}


def _styles(few: bool) -> Iterator[dict[str, str]]:
    """Colours and markers of the groups, without end."""
    yield {"color": THEIRS, "marker": "s"}
    others = (OURS,) if few else (OURS, "#15803d", "#7e22ce", "#ca8a04", "#0e7490", "#be185d", "#475569")
    yield from ({"color": colour, "marker": marker} for marker, colour in product("o^D", others))


def _round_numbers() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))
