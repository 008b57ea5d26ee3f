"""Dice, surface distances and pooled counts of segmented images and volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionssm.engine.task import Metric
from visionssm.files import write_csv
from visionssm.tasks.medical.measures.hausdorff import hd95
from visionssm.tasks.medical.measures.overlap import MEASURES, Counts, counts_of, pooled
from visionssm.tasks.medical.measures.surface_dice import nsd
from visionssm.tasks.medical.pictures import draw

EMPTY = ("left out", "medpy")
_COLUMNS = ("case", "organ", "dice", "iou", "hd95", "nsd", "predicted_voxels", "true_voxels")


class MedicalMetric(Metric):
    """Means over cases: `dice` and `dice_NAME` of every class, and `hd95…` and `nsd…` where they are asked for.

    The mean of a class is that over the cases; figures without a name are means over the classes of these means. Where
    a figure is not defined in a case it is left out of the mean.

    Args:
        regions: unions of classes that are measured beside the classes, `dict(brain=["grey", "white"])`.
        hd95: measure the 95th percentile of surface distances.
        voxels: measure distances in voxels, as papers on Synapse do, not in mm.
        tolerances: distance in mm up to which surfaces count as equal in `nsd`: a number, or one by name; None for no
            such figure.
        pooled: also tell `pooled_iou`, `pooled_dice`, `pooled_accuracy`, … of the pixels of all cases together, means
            over classes, as papers on ISIC do, and `iou`, the mean over images.
        empty: a class that a case does not have: "left out" of HD95, and of Dice if it was not predicted either (0 if
            it was); "medpy" for the authors' rule on Synapse: Dice 1 and HD95 0 if it was predicted though the truth is
            empty, both 0 whenever nothing was predicted.
        keep: cases of the data set that are kept for drawing.

    Raises:
        ValueError: an argument is unknown.
    """

    formats: ClassVar[tuple[str, ...]] = (".csv",)

    def __init__(
        self,
        regions: Mapping[str, Sequence[str]] | None = None,
        hd95: bool = False,
        voxels: bool = False,
        tolerances: float | Mapping[str, float] | None = None,
        pooled: bool = False,
        empty: str = "left out",
        keep: int = 4,
    ) -> None:
        super().__init__()
        if empty not in EMPTY:
            raise ValueError(f"empty={empty!r} is unknown; choose one of {', '.join(EMPTY)}")
        self.regions = {name: list(classes) for name, classes in (regions or {}).items()}
        self.distances, self.voxels, self.tolerances = hd95, voxels, tolerances
        self.pooled, self.empty, self.keep = pooled, empty, keep
        self.rows: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Measure the cases of one batch, and draw the first ones of the data set."""
        classes = list((self.dataset_meta or {}).get("classes") or [])
        for row in data_samples:
            predicted, truth = row["predicted"], row["truth"]
            kept: dict[str, Any] = {
                "index": row["index"],
                "organs": {
                    name: self._measured(name, np.isin(predicted, numbers), np.isin(truth, numbers), row["spacing"])
                    for name, numbers in self._organs(classes).items()
                },
            }
            if row["index"] < self.keep:
                kept["picture"] = draw(row["pixels"], {"truth": truth, "predicted": predicted}, classes)
            self.results.append(kept)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Figures of all cases."""
        if not results:
            raise ValueError("nothing to evaluate: the data set has no case")
        self.rows = sorted(results, key=lambda row: int(row["index"]))
        self.pictures = [(row["index"], row["picture"]) for row in self.rows if "picture" in row]
        organs = list(self.rows[0]["organs"])
        single = [name for name in organs if name not in self.regions]
        figures: dict[str, float] = {}
        for measure in self._measures():
            means = {name: _mean([row["organs"][name][measure] for row in self.rows]) for name in organs}
            known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
            if any(name in known for name in single):
                figures[measure] = _mean([known[name] for name in single if name in known])
            figures |= {f"{measure}_{_plain(name)}": mean for name, mean in known.items()}
        if self.pooled:
            sums = [pooled(row["organs"][name]["counts"] for row in self.rows) for name in single]
            for measure in MEASURES:
                mean = _mean([getattr(counts, measure) for counts in sums])
                figures |= {} if math.isnan(mean) else {f"pooled_{measure}": mean}
        return figures

    def write(self, path: Path, dataset: Any) -> None:
        """Write a table with a row for every case and class or region; what is not defined is empty."""
        sample_name = getattr(dataset, "sample_name", str)
        lines = []
        for row in self.rows:
            for name, found in row["organs"].items():
                values = ["" if math.isnan(found.get(x, math.nan)) else found[x] for x in _COLUMNS[2:6]]
                counts: Counts = found["counts"]
                lines.append((sample_name(row["index"]), name, *values, counts.predicted, counts.true))
        write_csv(path, _COLUMNS, lines)

    def _organs(self, classes: Sequence[str]) -> dict[str, list[int]]:
        organs = {name: [number] for number, name in enumerate(classes) if number > 0}
        for name, members in self.regions.items():
            unknown = [x for x in members if x not in classes]
            if unknown or name in organs:
                raise ValueError(
                    f"regions: {name!r} " + (f"has the unknown classes {unknown}" if unknown else "is a class already")
                )
            organs[name] = [classes.index(x) for x in members]
        return organs

    def _measures(self) -> list[str]:
        asked = {"hd95": self.distances, "nsd": self.tolerances is not None, "iou": self.pooled}
        return ["dice", *(name for name, wanted in asked.items() if wanted)]

    def _measured(
        self, name: str, predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
    ) -> dict[str, Any]:
        counts = counts_of(predicted, truth)
        found: dict[str, Any] = {"counts": counts, "dice": counts.dice, "iou": counts.iou}
        if self.distances:
            found["hd95"] = hd95(predicted, truth, None if self.voxels else spacing)
        if self.tolerances is not None:
            tolerance = self.tolerances.get(name) if isinstance(self.tolerances, Mapping) else self.tolerances
            found["nsd"] = math.nan if tolerance is None else nsd(predicted, truth, tolerance, spacing)
        if self.empty == "medpy" and not (counts.true and counts.predicted):
            found["dice"] = 1.0 if counts.predicted else 0.0
            if self.distances:
                found["hd95"] = 0.0
        return found


def _mean(values: Sequence[float]) -> float:
    known = [x for x in values if not math.isnan(x)]
    return sum(known) / len(known) if known else math.nan


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_")
