"""Accuracy of point clouds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.tasks.points.pictures import from_above
from visionssm.engine.task import Metric
from visionssm.files import write_csv


class PointMetric(Metric):
    formats: ClassVar[tuple[str, ...]] = (".csv",)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        for row in data_samples:
            shown = ("points",) if row["index"] < self.keep else ()
            self.results.append({name: row[name] for name in ("scores", "label", "index", *shown)})

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        self.rows = results
        self.pictures = [(row["index"], from_above(row["points"])) for row in results if "points" in row]
        return {"accuracy": sum(int(row["scores"].argmax()) == row["label"] for row in results) / len(results)}

    def write(self, path: Path, dataset: Any) -> None:
        classes = dataset.metainfo["classes"]
        rows = ((dataset.sample_name(row["index"]), classes[int(row["scores"].argmax())]) for row in self.rows)
        write_csv(path, ("sample", "class"), rows)
