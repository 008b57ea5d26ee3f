"""Published accuracy beside measured speed: the file of results in timm's columns, and a figure of the two."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visionssm.benchmarks.figures import Point, label_points, new_figure, save
from visionssm.benchmarks.timing import read_rows
from visionssm.catalogue.info import ModelInfo
from visionssm.catalogue.listing import model_info

COLUMNS = (
    *("model", "top1", "top1_err", "param_count", "img_size", "crop_pct", "interpolation"),
    *("infer_gmacs", "infer_img_size", "infer_step_time", "infer_step_time_ratio", "infer_samples_per_sec"),
    "infer_setting",
)
"""timm's names where it has one. `infer_step_time` is in milliseconds, of one image; `…_ratio` is to that of the model
that was timed in turn with it, which `infer_setting` names: only ratios compare between settings."""

Speeds = Mapping[str, Mapping[str, str]]


def measured(*files: str | Path) -> dict[str, dict[str, str]]:
    """The columns of speed by architecture, from files of `tools/benchmark.py models`, of which the first counts.

    Raises:
        ValueError: a file is not there, or not of that command.
    """
    found: dict[str, dict[str, str]] = {}
    for path in files:
        if not Path(path).is_file():
            raise ValueError(f"there is no file {str(path)!r} of measured speeds")
        for row in read_rows(path, of_this_machine=False):
            clock = "" if row.get("clock", "wall") == "wall" else ", processor's time of one thread"
            found.setdefault(
                row["model"],
                {
                    "infer_gmacs": f"{row['GFLOPs']:.2f}",
                    "infer_img_size": str(row["size"]),
                    "infer_step_time": f"{row['latency ms']:.1f}",
                    "infer_step_time_ratio": f"{row['latency / reference']:.3f}",
                    "infer_samples_per_sec": f"{row['images/s']:.2f}",
                    "infer_setting": f"CPU, float32, in turn with {row['reference']}{clock}",
                },
            )
    return found


def rows(infos: Iterable[ModelInfo], speeds: Speeds) -> list[dict[str, str]]:
    """A row of `COLUMNS` for every checkpoint with a published top-1, the best first; what is not known is empty."""
    chosen = [info for info in infos if info.task == "classification" and "top1" in info.scores]
    return [_row(info, speeds) for info in sorted(chosen, key=lambda info: (-info.scores["top1"], info.name))]


def _row(info: ModelInfo, speeds: Speeds) -> dict[str, str]:
    top1 = info.scores["top1"]
    known = {
        "model": info.name,
        "top1": f"{top1:g}",
        "top1_err": f"{100 - top1:.1f}",
        "param_count": "" if info.parameters is None else f"{info.parameters / 1e6:.2f}",
        "img_size": "" if info.input_size is None else str(info.input_size[-1]),
        "crop_pct": "" if info.crop_pct is None else f"{info.crop_pct:g}",
        "interpolation": info.interpolation or "",
    }
    return dict.fromkeys(COLUMNS, "") | known | dict(speeds.get(info.architecture, {}))


def as_csv(table: Iterable[Mapping[str, str]]) -> str:
    """The table as text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#0e7490", "#be185d", "#475569")
MARKERS = "os^D"


def points(table: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[float, float, str]]]:
    """(latency over the reference's, top-1, name) of models at the size that they were measured at, by family.

    Of several checkpoints of a model it is the first, that of the README's table.
    """
    found: dict[str, list[tuple[float, float, str]]] = {}
    for row in table:
        name = row["model"].partition(".")[0]
        first = model_info(name, task="classification").name
        if row["model"] != first or not row["infer_step_time_ratio"] or row["img_size"] != row["infer_img_size"]:
            continue
        place = (float(row["infer_step_time_ratio"]), float(row["top1"]), name)
        found.setdefault(name.partition("_")[0], []).append(place)
    return dict(sorted(found.items()))


def draw(table: Sequence[Mapping[str, str]], path: str | Path) -> None:
    """Draw published accuracy against measured latency as a PNG, a named dot for every model.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(figsize=(13.0, 9.0))
    named = []
    for number, (family, places) in enumerate(points(table).items()):
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
        x, y = [place[0] for place in places], [place[1] for place in places]
        axes.plot(*zip(*sorted(zip(x, y))), color=colour, alpha=0.25, linewidth=1, zorder=1)
        axes.scatter(x, y, s=42, color=colour, marker=marker, label=family, zorder=3, edgecolor="white", linewidth=0.6)
        named += [Point(*place, colour) for place in places]
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.06)
    axes.xaxis.set_major_locator(_round_numbers())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(color="#e2e8f0", linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("latency of one image on a CPU / Swin-T's")
    axes.set_ylabel("ImageNet-1k top-1, published, %")
    axes.legend(frameon=False, loc="lower right", ncols=2)
    label_points(axes, named, fontsize=7.0)
    save(figure, path)


def _round_numbers() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))
