"""The catalogue as tables: for people, for spreadsheets (timm's columns), as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from visionssm.catalogue.info import ModelInfo

CSV_COLUMNS = (
    *("model", "task", "top1", "scores", "param_count", "gmacs", "img_size", "crop_pct", "interpolation"),
    *("license", "download", "weights", "sha256", "paper"),
)
"""Those that timm's results files have are named as there; param_count is in millions, as there."""

SHOWN = ("model", "task", "published", "parameters", "GFLOPs", "input", "weights", "licence")


def shown_rows(infos: Iterable[ModelInfo]) -> list[tuple[str, ...]]:
    """A row of text a model, of the columns `SHOWN`."""
    return [
        (
            info.name,
            info.task,
            scores(info) or "–",
            "–" if info.parameters is None else f"{info.parameters / 1e6:.2f}M",
            "–" if info.multiply_adds is None else f"{info.multiply_adds / 1e9:.2f}",
            "–" if info.input_size is None else "×".join(map(str, info.input_size[1:])),
            info.download or "–",
            info.license or ("not stated" if info.download else "–"),
        )
        for info in infos
    ]


def scores(info: ModelInfo) -> str:
    """Published scores as text: `top1 82.6`."""
    return ", ".join(f"{name} {value:g}" for name, value in info.scores.items())


def as_json(infos: Iterable[ModelInfo]) -> str:
    """All that is known of the models."""
    return json.dumps([asdict(info) for info in infos], indent=1, ensure_ascii=False)


def as_csv(infos: Iterable[ModelInfo]) -> str:
    """The columns `CSV_COLUMNS`; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for info in infos:
        writer.writerow(_csv_row(info))
    return out.getvalue()


def _csv_row(info: ModelInfo) -> Sequence[object]:
    size = "" if info.input_size is None else info.input_size[-1]
    millions = "" if info.parameters is None else f"{info.parameters / 1e6:.2f}"
    operations = "" if info.multiply_adds is None else f"{info.multiply_adds / 1e9:.2f}"
    row = [info.name, info.task, info.scores.get("top1"), scores(info), millions, operations, size, info.crop_pct]
    row += [info.interpolation, info.license, info.download, info.weights, info.sha256, info.paper]
    return ["" if value is None else value for value in row]
