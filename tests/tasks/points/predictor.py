"""Point clouds in files: .npy arrays (N, 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tests.tasks.points.network import PointNet
from tests.tasks.points.pictures import from_above
from visionssm.data.errors import UnreadableFileError
from visionssm.engine.description import description_of, fields_of, rebuilt
from visionssm.engine.task import Row, Source


@dataclass(frozen=True)
class PointClass:
    name: str
    score: float

    def rows(self) -> list[Row]:
        return [(self.name, self.score)]

    def plain(self) -> dict[str, Any]:
        return {"class": self.name, "score": self.score}

    def save(self, folder: Path, source: Source) -> None:
        from_above(source.sample).save(folder / f"{source.name}.png")


@dataclass(frozen=True)
class PointPredictor:
    columns: ClassVar[tuple[str, ...]] = ("class", "score")

    model: PointNet
    classes: Sequence[str]

    def read(self, path: Path) -> Tensor:
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False).reshape(-1, 3))
        except (OSError, ValueError) as error:
            raise UnreadableFileError(path, f"it is no point cloud ({error})") from error

    def __call__(self, samples: Sequence[Tensor]) -> list[PointClass]:
        best = self.model(samples).softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [PointClass(self.classes[number], score) for number, score in pairs]


def trained_point_classifier(checkpoint: Mapping[str, Any]) -> PointPredictor:
    about = description_of(checkpoint)
    fields = fields_of(about, "model", ("width", "num_classes"))
    return PointPredictor(rebuilt(lambda: PointNet(**fields), checkpoint, "PointNet"), about["classes"])
